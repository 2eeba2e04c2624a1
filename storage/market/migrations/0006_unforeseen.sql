-- Tries that failed in a way nobody foresaw, counted apart from those that a dependency's outage took: only
-- the former use up an effect's or a webhook's chances.
ALTER TABLE effects ADD COLUMN unforeseen int NOT NULL DEFAULT 0;
ALTER TABLE inbox ADD COLUMN unforeseen int NOT NULL DEFAULT 0;

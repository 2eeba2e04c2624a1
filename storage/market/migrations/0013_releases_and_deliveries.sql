-- Releases have a channel, may be yanked, and never change otherwise. Rows that exist are on the stable channel.
ALTER TABLE releases
    ADD COLUMN channel text NOT NULL DEFAULT 'stable' CHECK (channel IN ('stable', 'candidate', 'beta', 'nightly')),
    ADD COLUMN upload_version text,  -- the version of the upload that was completed; null for a plain PUT
    ADD COLUMN yanked_at   timestamptz,
    ADD COLUMN yanked_by   text,
    ADD COLUMN yank_reason text,
    ADD CONSTRAINT releases_yanked_with_reason CHECK (
        (state = 'yanked') = (yanked_at IS NOT NULL AND yanked_by IS NOT NULL AND yank_reason IS NOT NULL));

DROP INDEX releases_newest;
CREATE INDEX releases_newest ON releases (sku_id, channel, published_at DESC, release_id DESC)
    WHERE state = 'published';
-- The order of versions counts yanked ones too.
CREATE INDEX releases_in_order ON releases (sku_id, channel, published_at DESC, release_id DESC)
    WHERE state <> 'draft';

-- Buyers hold licences for exactly these bytes: after publication only the yank is written, once.
CREATE FUNCTION refuse_changed_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.state = 'yanked'
       OR (to_jsonb(OLD) - '{state,yanked_at,yanked_by,yank_reason}'::text[])
          <> (to_jsonb(NEW) - '{state,yanked_at,yanked_by,yank_reason}'::text[])
       OR NEW.state NOT IN ('published', 'yanked') THEN
        RAISE EXCEPTION 'release % is published and never changes', OLD.release_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER releases_stay_published BEFORE UPDATE OR DELETE ON releases
    FOR EACH ROW WHEN (OLD.state <> 'draft') EXECUTE FUNCTION refuse_changed_release();

-- A seller's key that was revoked signs no further release; what it signed before stays published.
ALTER TABLE seller_keys
    ADD COLUMN revoked_at    timestamptz,
    ADD COLUMN revoked_by    text,
    ADD COLUMN revoke_reason text;

-- Uploads in parts that were begun and not yet completed.
CREATE TABLE release_uploads (
    release_id   text PRIMARY KEY REFERENCES releases,
    upload_id    text        NOT NULL,
    bundle_bytes bigint      NOT NULL CHECK (bundle_bytes > 0),
    part_bytes   bigint      NOT NULL CHECK (part_bytes > 0),
    begun_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX release_uploads_by_age ON release_uploads (begun_at);

-- Every link to a delivery that was handed out: to whom, from which order, until when.
CREATE TABLE delivery_links (
    position    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery_id text        NOT NULL,
    order_id    text        NOT NULL,
    issued_to   text        NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('payload', 'joined')),
    issued_at   timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL
);
CREATE INDEX delivery_links_of_delivery ON delivery_links (delivery_id, position DESC);
CREATE INDEX delivery_links_by_age ON delivery_links (issued_at);
CREATE TRIGGER delivery_links_are_facts BEFORE UPDATE ON delivery_links
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- How many links of a kind were handed out since the window opened: one row, so its lock makes the bound exact.
CREATE TABLE delivery_link_windows (
    delivery_id text        NOT NULL,
    kind        text        NOT NULL,
    opened_at   timestamptz NOT NULL,
    links       int         NOT NULL,
    PRIMARY KEY (delivery_id, kind)
);
CREATE INDEX delivery_link_windows_by_age ON delivery_link_windows (opened_at);

-- Header and payload joined into one object, on demand; deleted when nobody has asked for a while.
CREATE TABLE joined_deliveries (
    delivery_id text PRIMARY KEY,
    object_key  text        NOT NULL,
    version_id  text        NOT NULL,
    bytes       bigint      NOT NULL,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX joined_deliveries_by_expiry ON joined_deliveries (expires_at);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT, INSERT, DELETE ON release_uploads, delivery_links, delivery_link_windows, joined_deliveries
            TO market_app;
        GRANT UPDATE ON delivery_link_windows, joined_deliveries TO market_app;
        GRANT UPDATE (state, revoked_at, revoked_by, revoke_reason) ON seller_keys TO market_app;
    END IF;
END $$;

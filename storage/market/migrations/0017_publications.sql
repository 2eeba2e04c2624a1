-- An attempt to publish a release: from its first row on, a payload may lie in object storage under its key. Of a
-- release at most one attempt is current; what it has sealed is taken over by whoever publishes the same again.
CREATE TABLE publication_attempts (
    payload_key      text PRIMARY KEY,  -- of this attempt alone, so what it left can be deleted by it
    release_id       text        NOT NULL REFERENCES releases,
    statement_sha256 bytea       NOT NULL,
    upload_version   text        NOT NULL,
    current          boolean     NOT NULL DEFAULT true,
    lease_until      timestamptz NOT NULL,
    begun_at         timestamptz NOT NULL DEFAULT now(),
    -- Filled when the payload is stored.
    countersignature text,
    minisig          text,
    bundle_sha256    text,
    bundle_bytes     bigint,
    payload_version  text,
    payload_sha256   text,
    payload_bytes    bigint,
    wrapped_file_key bytea,
    CHECK (payload_version IS NULL OR (countersignature IS NOT NULL AND minisig IS NOT NULL
           AND bundle_sha256 IS NOT NULL AND bundle_bytes IS NOT NULL AND payload_sha256 IS NOT NULL
           AND payload_bytes IS NOT NULL AND wrapped_file_key IS NOT NULL))
);
CREATE UNIQUE INDEX publication_attempts_current ON publication_attempts (release_id) WHERE current;
CREATE INDEX publication_attempts_by_age ON publication_attempts (lease_until);

-- What sellers uploaded lies in the open. It is dropped soon after publication, and when a draft is given up.
CREATE TABLE bundle_uploads (
    release_id text PRIMARY KEY REFERENCES releases,
    drop_after timestamptz NOT NULL
);
CREATE INDEX bundle_uploads_by_age ON bundle_uploads (drop_after);
INSERT INTO bundle_uploads (release_id, drop_after)
SELECT release_id, now() + CASE WHEN state = 'draft' THEN interval '30 days' ELSE interval '2 hours' END FROM releases;

-- A joined object is on record, under a key of its own, before it is made: two replicas may join the same delivery at
-- once, and one may die in the middle. Until it is made it has no version.
ALTER TABLE joined_deliveries
    DROP CONSTRAINT joined_deliveries_pkey,
    ADD PRIMARY KEY (object_key),
    ALTER COLUMN version_id DROP NOT NULL,
    ALTER COLUMN bytes DROP NOT NULL,
    ADD CHECK ((version_id IS NULL) = (bytes IS NULL));
CREATE INDEX joined_deliveries_of_delivery ON joined_deliveries (delivery_id);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON publication_attempts, bundle_uploads TO market_app;
    END IF;
END $$;

"""The age v1 file format (age-encryption.org/v1, C2SP), X25519 recipients: what deliveries are made of.

    recipients   age1… and AGE-SECRET-KEY-1… texts
    header       a file key wrapped for a recipient; strict header grammar
    payload      the encrypted stream, written once per release
    files        whole age files: header, then payload

The header and the payload are made apart: a release's payload is encrypted once under its file key, and
each delivery is a new header of 200 bytes for that key.
"""

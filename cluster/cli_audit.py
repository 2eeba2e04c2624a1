"""``marketplace audit``: verify the audit log, prove a fact, export its facts, fetch a checkpoint of a time.

``verify`` believes nobody but the platform's key: it recomputes the tree from the public tiles and remembers
what it saw, so a log that is cut or told anew is found. With a file it checks a proof without a network. What
``export`` writes is checked against the signed root before the file appears.
"""

import json
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from cluster import log_memory, trust
from cluster.client import ClientError, MarketplaceClient
from cluster.connection import config_folder, resolve
from cluster.log_audit import (
    fetch_checkpoint,
    require_consistency,
    require_continuation,
    require_seen,
    verify_log,
)
from cluster.private_files import read_bounded, whole_file, write_whole
from cluster.terminal import JsonFlag, Terminal, command
from domain.audit import proof_files
from domain.audit.checkpoints import Checkpoint
from domain.audit.entries import Entry
from domain.audit.proof_files import FILE_BYTES_MAX, ProofFile
from domain.audit.proofs import hashes_of, read_proof
from domain.errors import MarketplaceError
from domain.merkle.tree import GrowingTree, Head, leaf_hash
from storage.signing.keys import verify as verify_signature

app = typer.Typer(no_args_is_help=True, help="The audit log: verify, prove, export, checkpoint.")

PROOF_SUFFIX = ".log-proof.json"
PAGE_ENTRIES = 256
PROGRESS_ENTRIES = 65_536
TrustKeyOption = Annotated[
    Path | None, typer.Option("--trust-key", help="The platform's public keys (PEM), and no others.")
]
TrustRootOption = Annotated[
    Path | None,
    typer.Option("--trust-root", help="The public key (PEM) of the root that signs the key list."),
]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the bearer token (or MARKETPLACE_TOKEN).")
]


@app.command()
def verify(
    proof: Annotated[
        Path | None, typer.Argument(help="A proof's file: check it alone, without a network.")
    ] = None,
    *,
    trust_key: TrustKeyOption = None,
    trust_root: TrustRootOption = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Recompute the log from its tiles and hold it against its signature and what was seen before."""
    with command(as_json=as_json) as terminal:
        if proof is not None:
            _verify_file(terminal, proof, trust_key, trust_root, url)
            return
        base_url, folder = resolve("auditor", url=url, token_file=None).base_url, config_folder()
        with MarketplaceClient(base_url) as client:
            trusted = _trusted(trust_key, trust_root, base_url, client)
            seen = log_memory.recall(folder, base_url)

            def tell(begin: int, _entries: list[bytes]) -> None:
                if begin % PROGRESS_ENTRIES == 0 and begin:
                    terminal.note(f"{begin} entries…")

            found = verify_log(client, trusted.public_keys.values(), seen, tell)
        log_memory.remember(folder, base_url, found.checkpoint)
        head = found.checkpoint.head
        terminal.say(
            f"{head.size} entries make up the signed root {head.root.hex()}, and continue the {found.since} "
            f"that were seen before. Believed: {trusted.source}."
        )
        terminal.result(
            {
                "ok": True,
                "origin": found.checkpoint.origin,
                "size": head.size,
                "root": head.root.hex(),
                "since": found.since,
                "checkpoint": found.note,
                "trust": trusted.source,
            }
        )


def _verify_file(
    terminal: Terminal, path: Path, trust_key: Path | None, trust_root: Path | None, url: str | None
) -> None:
    base_url = "" if trust_key else resolve("auditor", url=url, token_file=None).base_url
    trusted = _trusted(trust_key, trust_root, base_url, None)
    try:
        file = proof_files.read(read_bounded(path, FILE_BYTES_MAX))
        checkpoint = file.check(trusted.public_keys.values(), verify_signature)
    except MarketplaceError as refused:
        raise ClientError(f"{path} proves nothing: {refused.detail}", refused.code) from None
    terminal.say(file.record)
    terminal.note(
        f"This is entry {file.proof.position} of {checkpoint.head.size} in {checkpoint.origin}. "
        f"Believed: {trusted.source}."
    )
    terminal.result(
        {
            "ok": True,
            "record": file.record,
            "position": file.proof.position,
            "origin": checkpoint.origin,
            "size": checkpoint.head.size,
            "root": checkpoint.head.root.hex(),
            "trust": trusted.source,
        }
    )


@app.command()
def prove(
    subject: Annotated[str, typer.Argument(help="An event's, licence's or delivery's id.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Where the proof goes.")] = None,
    trust_key: TrustKeyOption = None,
    trust_root: TrustRootOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch the proof that a fact is in the log, check it, and write it to a file."""
    with command(as_json=as_json) as terminal:
        connection = resolve("buyer", url=url, token_file=token_file)
        with MarketplaceClient(connection.base_url, connection.require_token("buyer")) as client:
            trusted = _trusted(trust_key, trust_root, connection.base_url, client)
            seen = log_memory.recall(config_folder(), connection.base_url)
            require_continuation(fetch_checkpoint(client, trusted.public_keys.values())[0], seen)
            answer = client.log_proof(subject, since=seen.head.size if seen else None)
        try:
            file = ProofFile(str(answer["record"]), read_proof(answer["proof"]), str(answer["checkpoint"]))
            checkpoint = file.check(trusted.public_keys.values(), verify_signature)
            path = hashes_of(answer["consistency"]["path"]) if seen else ()
        except (MarketplaceError, KeyError, TypeError) as refused:
            raise ClientError(f"The marketplace's proof is wrong: {refused}", "log_proof_wrong") from None
        require_consistency(checkpoint, seen, path)
        where = out or Path(f"{Path(subject).name}{PROOF_SUFFIX}")
        write_whole(where, file.dumps(), 0o644)
        terminal.say(f"{where}: entry {file.proof.position} of {checkpoint.head.size}.")
        terminal.result(
            {"ok": True, "file": str(where), "position": file.proof.position, "size": checkpoint.head.size}
        )


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option("--out", help="Where the entries go, one JSON object a line.")],
    trust_key: TrustKeyOption = None,
    trust_root: TrustRootOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write all entries with their facts, checked against the signed root (operators, auditors)."""
    with command(as_json=as_json) as terminal:
        connection = resolve("auditor", url=url, token_file=token_file)
        with MarketplaceClient(connection.base_url, connection.require_token("auditor")) as client:
            trusted = _trusted(trust_key, trust_root, connection.base_url, client)
            checkpoint, _ = fetch_checkpoint(client, trusted.public_keys.values())
            seen = log_memory.recall(config_folder(), connection.base_url)
            require_continuation(checkpoint, seen)
            with whole_file(out, 0o600) as file:
                erased, head = _write_entries(client, checkpoint.head.size, seen, file, terminal)
                if head != checkpoint.head:
                    raise ClientError(
                        "The entries do not make up the signed root. Tell the operator; nothing was written.",
                        "log_damaged",
                    )
        terminal.say(f"{out}: {checkpoint.head.size} entries, {erased} of them erased.")
        terminal.result({"ok": True, "file": str(out), "size": checkpoint.head.size, "erased": erased})


def _write_entries(
    client: MarketplaceClient, size: int, seen: Checkpoint | None, file: IO[bytes], terminal: Terminal
) -> tuple[int, Head]:
    tree, erased = GrowingTree(), 0
    while tree.size < size:
        items = client.log_entries(tree.size, min(PAGE_ENTRIES, size - tree.size))
        if not items:
            raise ClientError(f"The log ends at {tree.size} of {size} entries.", "log_damaged")
        for item in items:
            entry = _entry(item)
            if entry.position != tree.size or (entry.salt is not None and not entry.holds):
                raise ClientError(
                    f"Entry {tree.size} does not commit to the fact beside it. Tell the operator; nothing is "
                    "written.",
                    "log_damaged",
                )
            erased += entry.salt is None
            tree.append(leaf_hash(entry.digest))
            require_seen(tree, seen)
            file.write(json.dumps(item, ensure_ascii=False).encode() + b"\n")
        if tree.size % PROGRESS_ENTRIES < PAGE_ENTRIES:
            terminal.note(f"{tree.size} of {size} entries")
    return erased, tree.head


def _entry(item: dict[str, Any]) -> Entry:
    try:
        salt = None if item["salt"] is None else b64decode(item["salt"], validate=True)
        digest = b64decode(item["digest"], validate=True)
        return Entry(int(item["position"]), item["kind"], item["subject_id"], salt, digest, item["record"])
    except (KeyError, TypeError, ValueError):
        raise ClientError("The marketplace answers with what is no entry.", "answer_malformed") from None


@app.command()
def checkpoint(
    *,
    before: Annotated[str, typer.Option("--before", help="A time (RFC 3339).")],
    out: Annotated[Path, typer.Option("--out", help="Where the checkpoint goes, to be carried to the root.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch the last checkpoint that was kept before a time, for `ops keys compromise --log`."""
    with command(as_json=as_json) as terminal:
        connection = resolve("operator", url=url, token_file=token_file)
        with MarketplaceClient(connection.base_url, connection.require_token("operator")) as client:
            kept = client.checkpoint_before(before)
        write_whole(out, str(kept["note"]).encode(), 0o644)
        terminal.say(f"{out}: {kept['size']} entries, signed by {kept['key_id']}, kept {kept['kept_at']}.")
        terminal.result({"ok": True, "file": str(out), **kept})


def _trusted(
    trust_key: Path | None, trust_root: Path | None, base_url: str, client: MarketplaceClient | None
) -> trust.TrustedKeys:
    return trust.chosen(trust_key, trust_root, config_folder(), base_url, client, datetime.now(UTC))

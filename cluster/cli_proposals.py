"""``marketplace ops``: proposals, the operators' keys, and what they govern.

What is shown is what is signed (``cluster.proposal_changes``), and the key never leaves its file. Exit
statuses as everywhere; ``proposals verify`` also ends with 1 when it found something.
Refused: key files that others can read, and to sign unasked without ``--yes``.
"""

import asyncio
import getpass
import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import psycopg
import typer

from cluster import checking
from cluster.client import ClientError
from cluster.connection import config_folder, resolve
from cluster.identities import SellerKey as SigningKey
from cluster.local.layout import Layout, default_home, read_json
from cluster.operator_keys import KEY_NAME, load_key, read_operator
from cluster.private_files import read_bounded, write_whole
from cluster.proposal_changes import ProposalClient, new_change, pretty, proposed_change
from cluster.terminal import EXIT_FAILED, JsonFlag, Terminal, command
from domain import strict_json
from domain.ids import new_id
from domain.proposals.documents import DOCUMENT_BYTES_MAX, Kind, Operators, parse
from domain.proposals.history import Finding, Replay
from domain.proposals.refusals import EXPIRY_DAYS_DEFAULT, EXPIRY_DAYS_MAX
from domain.proposals.statements import Action, sign
from storage.market.pool import build_pool
from storage.market.proposals import Proposals, init_operators
from storage.signing.keys import public_key_pem

FILE_BYTES_MAX = 2 * DOCUMENT_BYTES_MAX  # a document as people write it
APPROVAL_REASON = "Reviewed and agreed to."
INIT_REASON = "First operators' keys."
_ACTS = {
    Action.APPROVAL: ("approvals", "Approve"),
    Action.REJECTION: ("rejections", "Reject"),
    Action.WITHDRAWAL: ("withdrawal", "Withdraw"),
}

app = typer.Typer(no_args_is_help=True)
proposals = typer.Typer(no_args_is_help=True, help="Proposals: list, show, verify.")
operators = typer.Typer(no_args_is_help=True, help="The operators' approval keys: init.")
app.add_typer(proposals, name="proposals")
app.add_typer(operators, name="operators")

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with an operator's token (or MARKETPLACE_TOKEN).")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", envvar="MARKETPLACE_OPERATOR_KEY", help="Your approval key (PEM, mode 0600)."),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; 3 to 500 characters, kept for good.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Sign without asking.")]
IdArgument = Annotated[str, typer.Argument(help="A proposal's id, as `proposals list` prints it.")]
KindArgument = Annotated[Kind, typer.Argument(help="The governed document.")]


def _client(url: str | None, token_file: Path | None) -> ProposalClient:
    connection = resolve("operator", url=url, token_file=token_file)
    return ProposalClient(connection.base_url, connection.require_token("operator"))


@app.command("operator-keygen")
def operator_keygen(
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Where the key goes.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an approval key; its public half, for `operators`, is written beside it."""
    with command(as_json=as_json) as terminal:
        path = out or config_folder() / KEY_NAME
        key = SigningKey.create(path)
        public_path = path.with_name(f"{path.stem}.public.pem")
        write_whole(public_path, public_key_pem(key.public_key).encode(), 0o644)
        terminal.say(f"Key {key.key_id} in {path} (keep it secret), public half in {public_path}.")
        terminal.result(
            {"ok": True, "key_id": key.key_id, "key_file": str(path), "public_file": str(public_path)}
        )


@app.command()
def governed(
    kind: KindArgument,
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the current version of a governed document, to be edited and proposed."""
    with command(as_json=as_json) as terminal:
        with _client(url, token_file) as client:
            current = client.governed(kind)
        terminal.note(f"{kind} version {current['version']}, hash {current['hash']}")
        terminal.say(pretty(parse(kind, current["document"])))
        terminal.result({"ok": True, **current})


@app.command()
def propose(
    kind: KindArgument,
    file: Annotated[Path, typer.Argument(help="The new document (JSON).")],
    *,
    reason: ReasonOption,
    key: KeyOption = None,
    expires_days: Annotated[
        float, typer.Option("--expires-days", min=0.01, max=EXPIRY_DAYS_MAX, help="How long it stays open.")
    ] = EXPIRY_DAYS_DEFAULT,
    yes: YesOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Propose a new version of a governed document."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        signer = load_key(key)
        new = parse(kind, strict_json.loads(read_bounded(file, FILE_BYTES_MAX), max_bytes=FILE_BYTES_MAX))
        change = new_change(client, kind, new, datetime.now(UTC), timedelta(days=expires_days))
        terminal.say(change.text())
        _confirm(terminal, f"Propose this with {signer.key_id}?", yes=yes)
        envelope = json.loads(sign(signer, Action.PROPOSAL, change.statement))
        receipt = client.submit("", {"document": new.as_json(), "reason": reason, "envelope": envelope})
        _tell(terminal, receipt)


@app.command()
def approve(
    proposal_id: IdArgument,
    *,
    reason: ReasonOption = APPROVAL_REASON,
    key: KeyOption = None,
    yes: YesOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a proposal's change, and approve it; the last approval needed applies it."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        _act(client, terminal, Action.APPROVAL, proposal_id, reason, key, yes=yes)


@app.command()
def reject(
    proposal_id: IdArgument,
    *,
    reason: ReasonOption,
    key: KeyOption = None,
    yes: YesOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a proposal's change, and reject it."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        _act(client, terminal, Action.REJECTION, proposal_id, reason, key, yes=yes)


@app.command()
def withdraw(
    proposal_id: IdArgument,
    *,
    reason: ReasonOption,
    key: KeyOption = None,
    yes: YesOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Withdraw a proposal of your own key."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        _act(client, terminal, Action.WITHDRAWAL, proposal_id, reason, key, yes=yes)


@proposals.command("list")
def list_proposals(
    *,
    status: Annotated[str | None, typer.Option("--status", help="Only these, such as open.")] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List proposals, newest first."""
    with command(as_json=as_json) as terminal:
        with _client(url, token_file) as client:
            listed = client.proposals(status)
        for one in listed:
            terminal.say(_plain(f"{one['id']}  {_standing(one)}  {one['reason']}"))
        if not listed:
            terminal.say("No proposals.")
        terminal.result({"ok": True, "items": listed})


@proposals.command()
def show(
    proposal_id: IdArgument,
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a proposal: its document, and who has signed."""
    with command(as_json=as_json) as terminal:
        with _client(url, token_file) as client:
            shown = client.proposal(proposal_id)
        terminal.say(_plain(f"{shown['id']}  {_standing(shown)}  until {shown['expires_at']}"))
        terminal.say(_plain(f"by {shown['proposer']} ({shown['proposer_key_id']}): {shown['reason']}"))
        terminal.say(pretty(parse(Kind(shown["kind"]), shown["document"])))
        for vote in shown["votes"]:
            who = f"{vote['decision']} by {vote['operator']} ({vote['key_id']})"
            terminal.say(_plain(f"{vote['at']} {who}: {vote['reason']}"))
        terminal.result({"ok": True, **shown})


@proposals.command()
def verify(
    *,
    operators_genesis: Annotated[
        str | None,
        typer.Option("--operators-genesis", help="The hash that `operators init` printed, to compare with."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Replay every version from the first, and every signature, against the database (MARKET_DSN)."""
    with command(as_json=as_json) as terminal:
        dsn = checking.sources(Layout(default_home()), with_stripe=False).market_dsn
        replay = asyncio.run(_replay(dsn))
        genesis = replay.genesis.get(Kind.OPERATORS)
        if operators_genesis is not None and operators_genesis != genesis:
            replay.findings.append(
                Finding("operators 1", f"The first operators' hash is {genesis}, not the one expected.")
            )
        for finding in replay.findings:
            terminal.say(_plain(f"{finding.subject}: {finding.detail}"))
        for kind, version in sorted(replay.current.items()):
            terminal.say(f"{kind:<16} version {version.version:<5} {version.sha256}")
        verdict = f"{len(replay.findings)} findings" if replay.findings else "Nothing found"
        terminal.say(f"{verdict} in {replay.versions} versions and {replay.signatures} signatures.")
        if operators_genesis is None:
            terminal.note(f"Compare the first operators' hash with what `operators init` printed: {genesis}")
        terminal.result(
            {
                "ok": not replay.findings,
                "versions": replay.versions,
                "signatures": replay.signatures,
                "operators_genesis": genesis,
                "current": {
                    kind.value: {"version": one.version, "hash": one.sha256}
                    for kind, one in sorted(replay.current.items())
                },
                "findings": [{"subject": one.subject, "detail": one.detail} for one in replay.findings],
            }
        )
        if replay.findings:
            raise typer.Exit(EXIT_FAILED)


async def _replay(dsn: str) -> Replay:
    pool = build_pool(dsn, name="proposals-verify", size_max=1)
    try:
        await pool.open()
        return await Proposals(pool).verify_history()
    finally:
        await pool.close()


@operators.command()
def init(
    *,
    operator: Annotated[
        list[str], typer.Option("--operator", help="NAME=PUBLIC.pem, once per operator; at least two.")
    ],
    threshold: Annotated[
        int, typer.Option("--threshold", min=1, help="Approvals needed besides the proposer.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Put the first operators' keys in, once, as the database's owner (MARKET_OWNER_DSN)."""
    with command(as_json=as_json) as terminal:
        named = [read_operator(text) for text in operator]
        document = parse(Kind.OPERATORS, Operators(tuple(named), threshold).as_json())
        assert isinstance(document, Operators)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        try:
            digest = init_operators(
                owner_dsn(),
                document,
                action_id=new_id("act", now_ms, secrets.token_bytes(10)),
                principal_id=f"owner:{_user()}",
                reason=INIT_REASON,
            )
        except psycopg.Error as error:
            # Its first line only: the rest may repeat the statement.
            text = (str(error).splitlines() or ["no reason given"])[0]
            raise ClientError(
                f"The database refused: {text}. MARKET_OWNER_DSN names its owner's address; migrate first.",
                "database_refused",
            ) from None
        for one in document.operators:
            terminal.say(f"{one.name:<24} {one.key_id}")
        terminal.say(
            f"{threshold} approvals besides the proposer's are needed. Hash of the document, to keep:"
        )
        terminal.say(digest)
        terminal.result({"ok": True, "hash": digest, "document": document.as_json()})


def _act(
    client: ProposalClient,
    terminal: Terminal,
    action: Action,
    proposal_id: str,
    reason: str,
    key: Path | None,
    *,
    yes: bool,
) -> None:
    signer = load_key(key)
    shown = client.proposal(proposal_id)
    if shown["id"] != proposal_id:
        raise ClientError("The server shows another proposal than was asked for.", "hash_mismatch")
    change = proposed_change(client, shown)
    terminal.note(_plain(f"{shown['proposer']} ({shown['proposer_key_id']}): {shown['reason']}"))
    terminal.say(change.text())
    path, verb = _ACTS[action]
    _confirm(terminal, f"{verb} this with {signer.key_id}?", yes=yes)
    body = {"envelope": json.loads(sign(signer, action, change.statement)), "reason": reason}
    _tell(terminal, client.submit(f"/{quote(proposal_id, safe='')}/{path}", body))


def _confirm(terminal: Terminal, question: str, *, yes: bool) -> None:
    if yes:
        return
    if terminal.as_json:
        raise ClientError("With --json nobody is asked: add --yes once you saw the change.", "not_confirmed")
    if not typer.confirm(question, err=True):
        raise ClientError("Nothing was signed.", "not_confirmed")


def _tell(terminal: Terminal, receipt: dict[str, Any]) -> None:
    counted = f"{receipt['approvals']} of {receipt['approvals_needed']} approvals"
    applied = f", applied as version {receipt['version']}" if receipt["version"] else ""
    terminal.say(
        _plain(f"{receipt['id']} is {receipt['status']}: {counted}{applied} ({receipt['action_id']}).")
    )
    terminal.result({"ok": True, **receipt})


def _standing(one: Mapping[str, Any]) -> str:
    return (
        f"{one['status']:<9}  {one['kind']} {one['base_version']} -> {one['base_version'] + 1}  "
        f"{one['approvals']}/{one['approvals_needed']} approvals, {one['rejections']} rejections"
    )


def _plain(text: str) -> str:
    # A server's words reach the terminal only as printable characters.
    return "".join(one if one.isprintable() else " " for one in text)


def owner_dsn() -> str:
    """Return the address of the database's owner; raises ClientError ``sources_missing``."""
    dsn = os.environ.get("MARKET_OWNER_DSN") or read_json(Layout(default_home()).local_json).get(
        "postgres_dsn"
    )
    if not dsn:
        raise ClientError(
            "No marketplace runs here and MARKET_OWNER_DSN is not set. It is the address of the database's "
            "owner, who also runs the migrations.",
            "sources_missing",
        )
    return str(dsn)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())

"""``marketplace ops keys``: the life of the platform's signing keys, under an offline root.

The root's key and the list that it signs are files: ``add``, ``activate``, ``retire`` and ``compromise`` need
no network, so they run on a machine that has none. ``publish`` carries the signed list to the marketplace,
which the signer and every verifier then follow. Each step is a new version of the list.
Refuses a root key that others can read, and a list that the root at hand did not sign.
"""

import json
import os
import secrets
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cluster.cli_proposals import owner_dsn
from cluster.client import ClientError, MarketplaceClient
from cluster.connection import config_folder, resolve
from cluster.identities import SellerKey as SigningKey
from cluster.private_files import read_bounded, write_whole
from cluster.terminal import JsonFlag, Terminal, command
from domain import canonical_json, key_lists, strict_json
from domain.audit.checkpoints import NOTE_CHARS_MAX, open_note
from domain.errors import MarketplaceError
from domain.key_lists import EMPTY, LIFE_DEFAULT, LIFE_MAX, LIST_BYTES_MAX, KeyList
from domain.merkle.tree import EMPTY_HEAD, Head
from storage.market.signing_keys import add_root
from storage.signing.backends import open_backend
from storage.signing.keys import public_key_pem, register, verify

ROOT_NAME = "root-key.pem"
LIST_NAME = "key-list.json"
PEM_BYTES_MAX = 16_384

app = typer.Typer(
    no_args_is_help=True,
    help="The life of the platform's signing keys, under an offline root.",
)
RootOption = Annotated[
    Path | None,
    typer.Option("--root", envvar="MARKETPLACE_ROOT_KEY", help="The root's key (PEM, mode 0600)."),
]
ListOption = Annotated[Path | None, typer.Option("--list", help="The signed list, read and written.")]
DaysOption = Annotated[
    int,
    typer.Option("--days", min=1, max=LIFE_MAX.days, help="How long verifiers may rely on the list."),
]
KeyArgument = Annotated[str, typer.Argument(help="A key's id, as `list` prints it.")]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with an operator's token (or MARKETPLACE_TOKEN).")
]


@app.command("root-init")
def root_init(
    *,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the root's key, offline; its public half, for everybody, is written beside it."""
    with command(as_json=as_json) as terminal:
        path = root or config_folder() / ROOT_NAME
        key = SigningKey.create(path)
        public = path.with_name(f"{path.stem}.public.pem")
        write_whole(public, public_key_pem(key.public_key).encode(), 0o644)
        terminal.say(f"Root {key.key_id} in {path}: keep it offline, and a copy elsewhere. Public: {public}.")
        terminal.result(
            {"ok": True, "root_id": key.key_id, "key_file": str(path), "public_file": str(public)}
        )


@app.command("root-record")
def root_record(
    public: Annotated[Path, typer.Argument(help="The root's public key (PEM).")],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Put the root's public key in, as the database's owner (MARKET_OWNER_DSN); the newest root counts."""
    with command(as_json=as_json) as terminal:
        public_key = _read_public(public)
        try:
            root_id = add_root(owner_dsn(), public_key)
        except psycopg.Error as error:
            text = (str(error).splitlines() or ["no reason given"])[0]
            raise ClientError(
                f"The database refused: {text}. MARKET_OWNER_DSN names its owner's address; migrate first.",
                "database_refused",
            ) from None
        terminal.say(f"Root {root_id} is on record. Lists are published under it from now on.")
        terminal.result({"ok": True, "root_id": root_id})


@app.command()
def public(
    backend: Annotated[str, typer.Argument(help="A signing backend's address, as in the settings.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Where the public key (PEM) goes.")],
    as_json: JsonFlag = False,
) -> None:
    """Ask a signing backend for its public key, to be listed."""
    with command(as_json=as_json) as terminal:
        try:
            keys = open_backend(backend)
        except MarketplaceError as refused:
            raise ClientError(refused.detail, refused.code) from None
        write_whole(out, public_key_pem(keys.public_key).encode(), 0o644)
        keys.close()
        terminal.say(f"{keys.key_id} in {out}.")
        terminal.result({"ok": True, "key_id": keys.key_id, "public_file": str(out)})


@app.command("list")
def list_keys(
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the signed list here, to be carried to the root.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the keys that the marketplace has on record, and its signed list."""
    with command(as_json=as_json) as terminal:
        connection = resolve("operator", url=url, token_file=None)
        with MarketplaceClient(connection.base_url) as client:
            keys, listed = client.platform_keys(), client.key_list()
        for key in keys:
            signs = "  signs" if listed and listed["signs"] == key["key_id"] else ""
            lost = key.get("compromised_at")
            state = key["state"] + (f" since {lost[:19]}Z" if lost else signs)
            terminal.say(f"{key['key_id']}  in use since {key['not_before'][:19]}Z  {state}")
        if listed is None:
            terminal.note("No root has signed a list.")
        else:
            terminal.note(f"List {listed['version']}, good until {listed['expires_at']}.")
            if out is not None:
                write_whole(out, canonical_json.dumps(listed["envelope"]), 0o644)
        terminal.result({"ok": True, "items": keys, "list": listed})


@app.command()
def add(
    public_key: Annotated[Path, typer.Argument(help="The new key's public half (PEM).")],
    *,
    since: Annotated[
        str | None, typer.Option("--since", help="Since when it is used (RFC 3339); default: now.")
    ] = None,
    listed: ListOption = None,
    root: RootOption = None,
    days: DaysOption = LIFE_DEFAULT.days,
    as_json: JsonFlag = False,
) -> None:
    """List a key: it verifies from then on and does not sign yet. Starts a list where there is none."""
    now = datetime.now(UTC)

    def change(current: KeyList) -> KeyList:
        moment = now if since is None else _moment(since)
        return key_lists.add(current, register(_read_public(public_key), moment.replace(microsecond=0)))

    _change(change, listed, root, now, days, as_json=as_json, may_start=True)


def _command_of(step: Callable[[KeyList, str], KeyList]) -> Callable[..., None]:
    """Make the command of a step that needs a key's id and nothing else."""

    def run(
        key_id: KeyArgument,
        *,
        listed: ListOption = None,
        root: RootOption = None,
        days: DaysOption = LIFE_DEFAULT.days,
        as_json: JsonFlag = False,
    ) -> None:
        now = datetime.now(UTC)
        _change(lambda current: step(current, key_id), listed, root, now, days, as_json=as_json)

    return run


app.command(
    "activate", help="Have a listed key sign. The signer switches within seconds of the publication."
)(_command_of(key_lists.activate))
app.command("retire", help="End a key's signing; what it signed stays valid.")(_command_of(key_lists.retire))


@app.command()
def compromise(
    key_id: KeyArgument,
    *,
    since: Annotated[str, typer.Option("--since", help="Since when it is not to be trusted (RFC 3339).")],
    log: Annotated[
        Path | None,
        typer.Option("--log", help="The log's last checkpoint before that (`marketplace audit checkpoint`)."),
    ] = None,
    without_log: Annotated[
        bool,
        typer.Option("--without-log", help="There was no checkpoint yet: the platform's record decides."),
    ] = False,
    nothing_logged: Annotated[
        bool, typer.Option("--nothing-logged", help="There was no checkpoint yet: nothing it signed holds.")
    ] = False,
    successor: Annotated[
        str | None, typer.Option("--activate", help="The listed key that signs from now on.")
    ] = None,
    listed: ListOption = None,
    root: RootOption = None,
    days: DaysOption = LIFE_DEFAULT.days,
    as_json: JsonFlag = False,
) -> None:
    """Take trust from a key: only what was in the audit log before stays valid. Name who signs instead."""
    now = datetime.now(UTC)
    if (log is not None) + without_log + nothing_logged != 1:
        raise typer.BadParameter("name one of --log, --without-log and --nothing-logged")

    def change(current: KeyList) -> KeyList:
        head = _log_head(log, current) if log is not None else EMPTY_HEAD if nothing_logged else None
        changed = key_lists.compromise(current, key_id, _moment(since), head)
        return changed if successor is None else key_lists.activate(changed, successor)

    _change(change, listed, root, now, days, as_json=as_json)


@app.command()
def publish(
    *,
    listed: ListOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the signed list the marketplace's current one."""
    with command(as_json=as_json) as terminal:
        connection = resolve("operator", url=url, token_file=token_file)
        text = read_bounded(_list_path(listed), LIST_BYTES_MAX)
        try:
            envelope = strict_json.loads(text, max_bytes=LIST_BYTES_MAX)
        except MarketplaceError as refused:
            raise ClientError(f"The list cannot be read: {refused.detail}", "key_list_invalid") from None
        with MarketplaceClient(connection.base_url, connection.require_token("operator")) as client:
            client.publish_key_list(envelope, secrets.token_hex(16))
            shown = client.key_list()
        assert shown is not None, "a list was just published"
        terminal.say(f"List {shown['version']} is published; {shown['signs'] or 'nobody'} signs.")
        terminal.result({"ok": True, "version": shown["version"], "signs": shown["signs"]})


@app.command()
def reissue(
    licences: Annotated[list[str], typer.Argument(help="Licences' ids, lic_….")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays on record.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give licences of a compromised key documents by the key that signs now. Safe to repeat."""
    with command(as_json=as_json) as terminal:
        connection = resolve("operator", url=url, token_file=token_file)
        made = {}
        with MarketplaceClient(connection.base_url, connection.require_token("operator")) as client:
            for licence_id in licences:
                made[licence_id] = client.reissue_licence(licence_id, reason)["id"]
                terminal.say(f"{licence_id} is {made[licence_id]} now.")
        terminal.result({"ok": True, "reissued": made})


def _change(
    change: Callable[[KeyList], KeyList],
    listed: Path | None,
    root: Path | None,
    now: datetime,
    days: int,
    *,
    as_json: bool,
    may_start: bool = False,
) -> None:
    with command(as_json=as_json) as terminal:
        path = _list_path(listed)
        key = _load_root(root)
        try:
            if not path.exists() and not may_start:
                raise ClientError(f"There is no list at {path}; name it with --list.", "key_list_missing")
            current = EMPTY
            if path.exists():
                text = read_bounded(path, LIST_BYTES_MAX).decode("ascii", "replace").strip()
                current = key_lists.open_list(text, key.public_key, verify)
            changed = key_lists.reissue(change(current), now, timedelta(days=days))
            key_lists.require_successor(current, changed)
            text = key_lists.sign(changed, key)
        except MarketplaceError as refused:
            raise ClientError(refused.detail, refused.code) from None
        write_whole(path, text.encode(), 0o644)
        _tell(terminal, path, changed)


def _tell(terminal: Terminal, path: Path, listed: KeyList) -> None:
    for one in listed.keys:
        at = f" since {one.compromised_at:%Y-%m-%dT%H:%M:%SZ}" if one.compromised_at else ""
        signs = "  signs" if listed.signs == one.key_id else ""
        terminal.say(f"{one.key_id}  {one.state}{at}{signs}")
    terminal.say(
        f"Version {listed.version} in {path}, good until {listed.expires_at:%Y-%m-%d}. "
        "`publish` makes it count."
    )
    terminal.result(
        {
            "ok": True,
            "version": listed.version,
            "signs": listed.signs,
            "file": str(path),
            "keys": json.loads(key_lists.build(listed))["keys"],
        }
    )


def _log_head(path: Path, current: KeyList) -> Head:
    """Read a checkpoint that a key of the list has signed; when it was kept is checked at the publication."""
    note = read_bounded(path, NOTE_CHARS_MAX * 4).decode("utf-8", "replace")
    return open_note(note, [key.public_key for key in current.keys], verify)[0].head


def _load_root(chosen: Path | None) -> SigningKey:
    path = chosen or config_folder() / ROOT_NAME
    key = SigningKey.load(path)
    status = path.stat()
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid != os.geteuid():
        raise ClientError(
            f"{path} must belong to you and have mode 0600: chmod 600 it. If others could read it, make a "
            "new root and record it.",
            "root_key_exposed",
        )
    return key


def _list_path(chosen: Path | None) -> Path:
    return chosen or config_folder() / LIST_NAME


def _read_public(path: Path) -> bytes:
    try:
        key = load_pem_public_key(read_bounded(path, PEM_BYTES_MAX))
    except (ValueError, UnsupportedAlgorithm):
        raise ClientError(f"{path} is no public key in PEM.", "public_key_invalid") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ClientError(f"{path} is a public key of another kind than Ed25519.", "public_key_type_wrong")
    return key.public_bytes_raw()


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except ValueError:
        pass  # refused below, as a time without a zone is
    raise ClientError(f"--since {text}: write a time such as 2026-11-24T09:30:00Z.", "time_invalid")

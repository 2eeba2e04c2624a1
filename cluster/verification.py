"""What a buyer checks of a licence and a delivery, each check by itself with its reason.

Offline: the signatures against trusted keys, and that licence, delivery manifest and file speak of the
same order, release and bundle. Online: what the marketplace holds of the licence (revocation above all).
A check that was not asked for is ``skipped`` and says so; it never counts as passed.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cluster.client import ClientError
from cluster.client_documents import LicenceReport
from cluster.trust import TrustedKeys, unknown_key_text
from domain import activations, canonical_json, delivery_manifests
from domain.audit.entries import DELIVERY
from domain.audit.proofs import LogProof, read_proof
from domain.delivery_manifests import DeliveryManifest
from domain.dsse import Envelope
from domain.errors import RejectedError
from domain.licence_verification import Finding, Revocations, in_log
from domain.licence_verification import check as check_envelope
from domain.licences import Licence, unarmour
from domain.platform_documents import open_signed
from domain.revocations import RevocationList
from domain.signing import KeyState
from domain.statements import PAYLOAD_TYPE
from storage.signing.keys import verify

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, ``ok``, ``failed`` or ``skipped``, and why.

    ``code`` says for programs what a failed check found; it is stable where it is a code of docs/licences.md.
    """

    name: str
    state: str
    reason: str
    code: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """Give the object that ``--json`` prints."""
        return asdict(self)


def passed(checks: Sequence[Check]) -> bool:
    """Whether none failed and at least one passed."""
    return any(check.state == OK for check in checks) and all(check.state != FAILED for check in checks)


def judged(name: str, *, holds: bool, good: str, bad: str, code: str | None = None) -> Check:
    """Make a check from a fact."""
    return Check(name, OK, good) if holds else Check(name, FAILED, bad, code)


Proves = Callable[[str, int], LogProof | None]
"""Asks for the proof that a document is among the first entries of the audit log; None: there is none."""


def open_delivery_manifest(
    envelope: str | dict[str, Any], trusted: TrustedKeys, proves: Proves | None = None
) -> DeliveryManifest:
    """Verify a delivery manifest's signature and read it.

    One that a compromised key has signed is believed if ``proves`` gives a proof that leads to the head of
    the audit log that the key list names.

    Raises:
        ClientError: ``manifest_untrusted`` or ``manifest_malformed``.
    """
    try:
        text = envelope if isinstance(envelope, str) else canonical_json.dumps(envelope).decode()
        believed = trusted.public_keys | _logged_before(text, trusted, proves)
        parsed = open_signed(text, PAYLOAD_TYPE, "a delivery manifest", believed, verify)
        return delivery_manifests.parse(parsed.payload)
    except RejectedError as error:
        if error.code == "signature_untrusted":
            raise ClientError(
                f"The delivery manifest is not to be trusted: {_why_untrusted(text, trusted)}",
                "manifest_untrusted",
            ) from None
        raise ClientError(
            f"The delivery manifest is malformed: {error.detail}", "manifest_malformed"
        ) from None


def _why_untrusted(text: str, trusted: TrustedKeys) -> str:
    key = trusted.records.get(Envelope.parse(text).signatures[0].key_id or "")
    if key is None or key.state is not KeyState.COMPROMISED:
        return unknown_key_text(trusted)
    return (
        f"{key.key_id} is compromised, and nothing at hand proves that the manifest was logged before. "
        "`marketplace buyer verify` asks the marketplace for the proof."
    )


def _logged_before(text: str, trusted: TrustedKeys, proves: Proves | None) -> dict[str, bytes]:
    """Return the compromised key that signed a manifest, if the manifest was in the log before."""
    envelope = Envelope.parse(text)
    key = trusted.records.get(envelope.signatures[0].key_id or "") if envelope.signatures else None
    if key is None or key.log is None or proves is None:
        return {}
    proof = proves(text, key.log.size)
    return {key.key_id: key.public_key} if in_log(key, DELIVERY, envelope, proof) else {}


def check_licence(
    armoured: str,
    trusted: TrustedKeys,
    now: datetime,
    buyer_id: str | None = None,
    logged_at: datetime | None = None,
    listed: RevocationList | None = None,
    log_proof: LogProof | None = None,
) -> tuple[Licence | None, list[Check]]:
    """Check a licence offline; the licence is returned only if its signature is good.

    Whether it was revoked since is known from a verified revocation list, or from ``check_online``.
    Once its key is compromised, ``log_proof`` decides if the key's record names a head of the audit log, else
    ``logged_at``, when it entered the platform's record.
    """
    try:
        licence, report = check_envelope(
            unarmour(armoured),
            trusted.records,
            verify,
            revocations=None if listed is None else Revocations.of(listed),
            now=now,
            buyer_id=buyer_id,
            logged_at=logged_at,
            log_proof=log_proof,
        )
    except RejectedError as error:
        return None, [Check("licence signature", FAILED, f"It is no licence: {error.detail}", error.code)]
    signature = report.signature
    if not signature.acceptable:
        reason = unknown_key_text(trusted) if report.key_state.state == "unknown" else signature.reason
        signature = Finding("signature_invalid", acceptable=False, reason=reason)
    checks = [
        _from_finding("licence signature", signature),
        _from_finding("signing key", report.key_state),
        _from_finding("licence expiry", report.expiry),
    ]
    if buyer_id is None:
        checks.append(Check("licence owner", SKIPPED, "No --buyer-id was named to compare with."))
    else:
        checks.append(_from_finding("licence owner", report.ownership))
    if listed is not None:
        checks.append(_from_finding("licence revocation", report.revocation))
    return (licence if signature.acceptable else None), checks


def recorded_at(report: LicenceReport | None) -> datetime | None:
    """When the marketplace says that this licence entered its record; None if it does not say, or soundly."""
    try:
        moment = datetime.fromisoformat(str((report or {})["key"]["recorded_at"]))  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def told_log_proof(report: LicenceReport | None) -> LogProof | None:
    """Return the log proof that the marketplace gives for a licence; None if it gives none, or unsoundly."""
    try:
        return read_proof((report or {})["key"]["log_proof"])  # type: ignore[index]
    except (KeyError, TypeError, RejectedError):
        return None


def check_key_list(trusted: TrustedKeys, now: datetime) -> list[Check]:
    """Check that the root's list is not out of date; nothing where the keys are believed as such."""
    listed = trusted.listed
    if listed is None:
        return []
    check = judged(
        "key list",
        holds=now < listed.expires_at,
        good=f"The root's list {listed.version} is good until {listed.expires_at:%Y-%m-%d}.",
        bad=f"The root's list {listed.version} is out of date since {listed.expires_at:%Y-%m-%d}: whether a "
        "key was compromised since is not known. Go online, or tell the operator.",
    )
    return [check]


def _from_finding(name: str, finding: Finding) -> Check:
    if finding.acceptable:
        return Check(name, OK, finding.reason)
    return Check(name, FAILED, finding.reason, finding.state)


def check_activation(
    seat: bytes | None, fingerprint: str | None, licence: Licence, trusted: TrustedKeys, now: datetime
) -> list[Check]:
    """Check a machine's activation of a licence; a licence that demands one is told apart without it."""
    if seat is None or fingerprint is None:
        if licence.policy.activation is None:
            return []
        reason = "The licence works with an activation only: name it with --activation and --fingerprint."
        return [Check("activation", SKIPPED, reason)]
    try:
        finding = activations.check(
            seat.decode("utf-8", "replace"),
            trusted.records,
            verify,
            licence_id=licence.licence_id,
            fingerprint=fingerprint,
            now=now,
        )
    except RejectedError as error:
        return [Check("activation", FAILED, f"It is no activation: {error.detail}", error.code)]
    return [_from_finding("activation", finding)]


def check_agreement(licence: Licence, manifest: DeliveryManifest) -> Check:
    """Check that a licence and a delivery manifest are about the same purchase."""
    pairs = {
        "licence": (licence.licence_id, manifest.licence_id),
        "order": (licence.order_id, manifest.order_id),
        "line": (licence.line_no, manifest.line_no),
        "release": (licence.release_id, manifest.release_id),
        "bundle name": (licence.bundle_name, manifest.file_name),
        "bundle digest": (licence.bundle_sha256, manifest.plaintext.sha256),
    }
    differing = [name for name, (ours, theirs) in pairs.items() if ours != theirs]
    return judged(
        "licence and delivery",
        holds=not differing,
        good="Both name the same order line, release and bundle.",
        bad=f"They differ in: {', '.join(differing)}. Fetch the order again.",
    )


def check_online(report: LicenceReport) -> list[Check]:
    """Turn the marketplace's findings into checks."""
    revocation, key = report["revocation"], report["key"]
    status = str(revocation.get("status", "unknown"))
    why = str(revocation.get("reason") or "ask the seller or the operator")
    return [
        judged(
            "online: signature",
            holds=bool(report["signature"].get("ok")),
            good="The marketplace issued this licence.",
            bad=str(report["signature"].get("reason") or "The marketplace does not recognise the signature."),
            code=report["signature"].get("code"),
        ),
        judged(
            "online: revocation",
            holds=status in {"not_revoked", "active", "ok"},
            good="The licence has not been revoked.",
            bad=f"The licence is {status}: {why.rstrip('.')}.",
            code=status,
        ),
        judged(
            "online: all findings",
            holds=report["valid"] is True,
            good=f"The marketplace holds it valid (key {key.get('key_id', '?')} is {key.get('state', '?')}).",
            bad="The marketplace does not hold it valid; see the checks above.",
        ),
    ]

"""What the runner reports: every status, what is stuck, and reasons that go when they are gone."""

from actors.payouts.metrics import PayoutMetrics
from domain.payouts.ports import PayoutFigures


def lines(text):
    samples = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in samples}


def test_every_status_is_told_and_a_reason_that_is_gone_is_not():
    metrics = PayoutMetrics()
    assert 'status="settled"' not in metrics.exposition(None).decode()
    told = lines(metrics.exposition(PayoutFigures({"settled": 3}, 1, {"no_account": 2})))
    assert told['marketplace_payouts{status="settled"}'] == 3
    assert told['marketplace_payouts{status="failed"}'] == 0
    assert told["marketplace_payouts_stuck"] == 1
    assert told['marketplace_payees_carried{reason="no_account"}'] == 2
    told = lines(metrics.exposition(PayoutFigures({"settled": 4}, 0, {})))
    assert told['marketplace_payouts{status="settled"}'] == 4
    assert 'marketplace_payees_carried{reason="no_account"}' not in told

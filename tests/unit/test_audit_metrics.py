from actors.audit.metrics import AuditMetrics
from actors.audit.sequencer import SequencerFigures


def test_gauges_follow_the_figures():
    metrics = AuditMetrics()
    metrics.record(SequencerFigures(3, 3, 0, catching_up=False))
    metrics.record(SequencerFigures(9, 7, 1, catching_up=True))
    text = metrics.exposition().decode()
    assert 'marketplace_audit_log_entries{under="log"} 9.0' in text
    assert 'marketplace_audit_log_entries{under="checkpoint"} 7.0' in text
    assert "marketplace_audit_sequencer_failures 1.0" in text
    assert "marketplace_audit_catching_up 1.0" in text

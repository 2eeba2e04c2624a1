"""What ``bench deliver`` stands on: a bundle that any publisher takes, and figures that are of real work."""

import hashlib
import io

from actors.publisher.archives import check_archive
from cluster.bench import deliver, process_groups
from cluster.bench.large_bundle import _write_tar
from cluster.bench.plots import charts_of


def test_a_large_bundle_is_a_sound_archive_of_nearly_its_size_and_the_same_each_time():
    digests = set()
    for _ in range(2):
        file = io.BytesIO()
        _write_tar(file, "app/data.bin", 3_000_000)
        assert 3_000_000 - 1_024 <= len(file.getvalue()) <= 3_000_000
        check_archive(file, len(file.getvalue()), "bench.tar")
        digests.add(hashlib.sha256(file.getvalue()).hexdigest())
    assert len(digests) == 1


def test_the_ciphers_figures_are_paired():
    figures = deliver.cipher(size=2**20, rounds=1)
    assert set(figures) == {
        "raw_gb_per_cpu_s",
        "cipher_gb_per_cpu_s",
        "with_digests_gb_per_cpu_s",
        "cipher_to_raw",
    }
    assert all(value > 0 for value in figures.values())


class OneReplica:
    """What ``process_groups.take`` tells of it, look by look: (CPU seconds, mebibytes)."""

    def __init__(self, *looks):
        self.looks = list(looks)

    def __call__(self, _layout):
        cpu_s, mb = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        usage = {
            (1, 1.0): process_groups.Usage("ingress", cpu_s, mb * process_groups.MEBI),
            (2, 1.0): process_groups.Usage("signer", 99.0, 99 * process_groups.MEBI),
        }
        return process_groups.Snapshot(usage)


def test_what_publishing_costs_is_the_replicas_cpu_and_its_peak(monkeypatch):
    monkeypatch.setattr(deliver.process_groups, "take", OneReplica((10.0, 200), (11.0, 290), (12.5, 240)))
    watch = deliver._Watch(None)
    watch.look()
    watch.look()
    assert (watch.added_mb(), watch.cpu_s()) == (90.0, 2.5)


def test_a_result_has_a_chart():
    size = {"bundle_bytes": 10_000_000, "paid_to_delivered": {"p50_ms": 23.1}}
    charts = charts_of({"bench": "deliver", "small": size, "large": {**size, "bundle_bytes": 10**9}})
    assert "10 MB" in charts["time"]
    assert "1000 MB" in charts["time"]

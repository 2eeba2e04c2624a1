"""What ``bench deliver`` stands on: a bundle that any publisher takes, and figures that are of real work."""

import hashlib
import io

from actors.publisher.archives import check_archive
from cluster.bench import deliver
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


def test_a_result_has_a_chart():
    size = {"bundle_bytes": 10_000_000, "paid_to_delivered": {"p50_ms": 23.1}}
    charts = charts_of({"bench": "deliver", "small": size, "large": {**size, "bundle_bytes": 10**9}})
    assert "10 MB" in charts["time"]
    assert "1000 MB" in charts["time"]

"""Records of shards add up to those of a stage."""

from types import SimpleNamespace

from microtome.records import Latency, ShardReport, StageReport, busy_s, most_at_once
from microtome.stages import sweep
from microtome.stages.sweep import Tally


def report(shard, began_s, seconds, **more):
    return ShardReport(stage="infer", shard=shard, began_s=began_s, seconds=seconds, cpu_s=seconds, **more)


def test_time_in_which_nothing_ran_does_not_count():
    overlapping = [report(0, 0.0, 10.0), report(1, 5.0, 10.0)]
    after_a_pause = report(2, 100.0, 1.0)
    assert busy_s([after_a_pause, *overlapping]) == 16.0


def test_workers_are_those_that_work_at_the_same_time():
    first_start = [report(shard, 1.0 * shard, 1.9, worker=f"{shard % 2}") for shard in range(4)]
    second_start = [report(shard, 50.0 + shard, 1.9, worker=f"other {shard % 2}") for shard in range(4)]
    assert most_at_once(first_start + second_start) == 2
    assert most_at_once([]) == 0


def test_a_stage_is_the_sum_of_its_shards():
    shards = [
        report(0, 0.0, 2.0, pixels=10, tiles=2, tile_s=(0.5, 1.5), parts_s={"read": 0.5}, peak_bytes=7),
        report(
            1, 1.0, 3.0, pixels=5, tiles=1, tile_s=(1.0,), parts_s={"network": 2.0, "read": 1.0}, peak_bytes=9
        ),
    ]
    stage = StageReport.of("infer", shards, resumed=1)
    assert (stage.pixels, stage.tiles, stage.wall_s, stage.cpu_s, stage.peak_bytes) == (15, 3, 4.0, 5.0, 9)
    assert stage.parts_s == {"network": 2.0, "read": 1.5}
    assert stage.tile_s == Latency(p50_s=1.0, p95_s=1.45, p99_s=1.49, count=3)
    assert stage.shard_s.count == 2


def test_a_stage_without_shards_has_no_latency():
    assert StageReport.of("infer", [], resumed=0).tile_s is None


def test_of_items_only_their_making_is_that_kind_of_work(monkeypatch):
    now_s, tally = [0.0], Tally()
    monkeypatch.setattr(sweep, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))

    def bands():
        for number in range(3):
            now_s[0] += 2
            yield number
        now_s[0] += 1

    seen = []
    for number in tally.timed_each("network", bands()):
        with tally.timed("decode"):
            now_s[0] += 10
        seen.append(number)
    assert seen == [0, 1, 2]
    assert tally.parts_s == {"network": 7.0, "decode": 30.0}


def test_what_is_read_within_other_work_is_reading(monkeypatch):
    now_s, tally = [0.0], Tally()
    monkeypatch.setattr(sweep, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    for _ in range(2):
        with tally.timed("suppress"):
            now_s[0] += 1
            with tally.timed("read"):
                now_s[0] += 20
            with tally.timed("read"):
                now_s[0] += 30
            now_s[0] += 4
    with tally.timed("write"):
        now_s[0] += 7
    assert tally.parts_s == {"suppress": 10.0, "read": 100.0, "write": 7.0}

"""Faults of the broker and its topics: gone, out of reach, unable to write, offsets that are not what they were."""

from __future__ import annotations

import resource
from contextlib import closing

from confluent_kafka import Consumer, TopicPartition
from kafka import KafkaAdminClient
from kafka import TopicPartition as Place
from kafka.admin import ConfigResource, ConfigResourceType

from tests.faults.run import Run
from tests.faults.workers import BACKLOG
from tests.rig.audit import TopicReader, header
from tests.rig.kafka_nodes import JavaNode
from tests.rig.kafka_proxy import Api
from tests.rig.outcomes import SentFrame
from tests.rig.worker import WorkerProcess

IMPATIENT = {"delivery_timeout_ms": 3000}  # a send is given up after this long: runs are short
_ANSWER_S = 30.0
_TOO_SMALL = 200  # bytes; a prediction has several hundred
_FULL_BYTES = 1024  # no file of the broker may grow beyond it


def leader_killed(run: Run) -> None:
    with run.feed() as feed:
        worker = run.worker()
        run.until_predicting(worker, 100)
        run.sleep(0.0, 2.0)
        topic = run.rng.choice((run.topics.predictions, run.topics.frames))
        node = _leader(run, topic, run.rng.randrange(run.topics.partitions))
        run.notes["leader_of"] = topic.partition("-")[0]
        run.strike(worker)
        run.kafka.kill(node)
        try:
            run.sleep(1.0, 5.0)
        finally:
            run.kafka.restart(node)
        run.goes_on()
        sent = feed.end()
    run.finish(sent)


def cut_off_during_a_commit(run: Run) -> None:
    """Once before the broker has heard of the commit, once before the worker hears that it was done."""
    proxy = run.kafka.proxies[1]
    committing = [Api.OFFSET_COMMIT] if run.mode == "at_least_once" else [Api.TXN_OFFSET_COMMIT, Api.END_TXN]
    sent = run.send(BACKLOG)
    with run.feed() as feed:
        worker = run.worker()
        run.until_predicting(worker)
        for answered in run.rng.sample((False, True), 2):
            run.sleep(0.0, 1.0)
            proxy.moment(run.rng.choice(committing), answered=answered).result(timeout=_ANSWER_S)
            run.strike(worker, over=False)
            run.sleep(0.0, 2.0)  # silence, then connections that break and are refused
            proxy.cut()
            run.sleep(0.0, 2.0)
            proxy.heal()
            run.over()
            worker = run.goes_on()
        sent += feed.end()
    run.finish(sent)


def dead_letters_have_no_topic(run: Run) -> None:
    """The topic goes before any bad frame comes, so that nothing can lie in it."""
    with run.feed() as feed:
        worker = run.worker(publish=IMPATIENT)
        run.until_predicting(worker)
        with closing(KafkaAdminClient(bootstrap_servers=run.topics.bootstrap_servers)) as admin:
            admin.delete_topics([run.topics.dlq])
            run.strike(worker, over=False)
            bad = run.send((f"bad-{number}".encode(), b"no image") for number in range(8))
            run.sleep(2.0, 6.0)
            for place in _committed(run):
                first = min((frame.offset for frame in bad if frame.partition == place.partition), default=2**62)
                run.expect(
                    place.offset <= first, f"committed past the bad frame at {first} of partition {place.partition}"
                )
            admin.create_topics({run.topics.dlq: {"num_partitions": run.topics.partitions}}, wait_for_metadata=True)
            run.over()
        run.until(lambda: worker.metric("frames_dead_lettered_total") >= len(bad), "the bad frames are dead letters")
        sent = feed.end() + bad
    run.finish(sent, dead=bad)


def offsets_are_not_what_they_were(run: Run) -> None:
    """By seed: set back, set forward, gone by retention, or of a topic that was made anew."""
    variants = (_set_back, _set_forward, _gone, _made_anew)
    act = variants[(run.seed - 1) % len(variants)]
    run.notes["offsets"] = act.__name__.strip("_")
    act(run)


def nothing_can_be_written(run: Run) -> None:
    """By seed: no byte more fits on the broker's disk (of a broker in a container it can't be had without being root), or
    every prediction is too large for its topic."""
    act = _disk_full if run.seed % 2 and isinstance(run.kafka.nodes[1], JavaNode) else _predictions_too_large
    run.notes["refused"] = act.__name__.strip("_")
    act(run)


def _worked_off(run: Run, count: int) -> tuple[WorkerProcess, list[SentFrame]]:
    """A worker that has done and committed so many frames and waits for more."""
    sent = run.send(count)
    worker = run.worker()
    run.until_predicting(worker, count)
    run.until(lambda: sum(place.offset for place in _committed(run)) == count, "all is committed")
    return worker, sent


def _set_back(run: Run) -> None:
    """In the middle of ranges that are counted: the later record replaces all of the earlier, so the statistics are not asked."""
    run.counted = False
    worker, sent = _worked_off(run, 200)
    worker.stop()
    back = [place.offset - run.rng.randrange(place.offset + 1) for place in _committed(run)]
    repeated = sum(place.offset for place in _committed(run)) - sum(back)
    _reset(run, back)
    run.worker()
    sent += run.send(100)
    audit = run.finish(sent, repeats_more=repeated)
    run.expect(audit.duplicates_raw == repeated, f"{audit.duplicates_raw} repeats, the offsets went back by {repeated}")


def _set_forward(run: Run) -> None:
    """Nobody but who did it can know: so exactly those frames have no outcome, and all others have theirs."""
    worker, sent = _worked_off(run, 200)
    worker.stop()
    more = run.send(200)
    forward = [place.offset + run.rng.randrange(20) for place in _committed(run)]
    skipped = {frame for frame in more if frame.offset < forward[frame.partition]}
    _reset(run, forward)
    run.notes["skipped"] = len(skipped)
    run.worker()
    run.finish([*sent, *(frame for frame in more if frame not in skipped)])


def _gone(run: Run) -> None:
    worker, sent = _worked_off(run, 200)
    worker.pause()
    more = run.send(200)
    kept_from = [place.offset + run.rng.randrange(1, 20) for place in _committed(run)]
    with closing(KafkaAdminClient(bootstrap_servers=run.topics.bootstrap_servers)) as admin:
        admin.delete_records({Place(run.topics.frames, number): offset for number, offset in enumerate(kept_from)})
    worker.resume()
    skipped = {frame for frame in more if frame.offset < kept_from[frame.partition]}
    run.notes["skipped"] = len(skipped)
    kept = [*sent, *(frame for frame in more if frame not in skipped)]
    run.until(lambda: worker.metric("frames_predicted_total") >= len(kept), "what is left is predicted")
    told = worker.metric("frames_skipped_total")
    run.expect(told == len(skipped), f"{told:g} frames told as skipped, {len(skipped)} were")
    for number, offset in enumerate(kept_from):
        first = min(frame.offset for frame in skipped if frame.partition == number)
        run.expect(
            f"offsets {first} to {offset} were gone" in worker.log, f"the gap of partition {number} is not in the log"
        )
    run.finish(kept)


def _made_anew(run: Run) -> None:
    run.counted = False  # ranges of two topics with one name
    worker, first = _worked_off(run, 200)
    sources = _sources(run)
    with closing(KafkaAdminClient(bootstrap_servers=run.topics.bootstrap_servers)) as admin:
        admin.delete_topics([run.topics.frames])
        run.until(lambda: worker.metric("partitions_assigned") == 0, "its partitions are gone")
        admin.create_topics({run.topics.frames: {"num_partitions": run.topics.partitions}}, wait_for_metadata=True)
    second = run.send(100)  # fewer: what was committed before lies beyond their end
    run.until(
        lambda: worker.metric("frames_predicted_total") >= len(first) + len(second), "the new frames are predicted"
    )
    run.expect(worker.metric("frames_skipped_total") == 0, "frames of the new topic are told as skipped")
    run.finish(second, before=sources)


def _disk_full(run: Run) -> None:
    """The broker's own limit on the size of a file stands for the disk's end: it meets the same error, and goes down by it."""
    node = run.kafka.nodes[1]
    assert isinstance(node, JavaNode)
    with run.feed() as feed:
        worker = run.worker()
        run.until_predicting(worker, 100)
        run.sleep(0.0, 2.0)
        run.strike(worker, over=False)
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (_FULL_BYTES, resource.RLIM_INFINITY))
        run.sleep(2.0, 5.0)
        run.kafka.restart()  # somebody made room
        run.over()
        run.goes_on()
        sent = feed.end()
    run.finish(sent)


def _predictions_too_large(run: Run) -> None:
    """Frames that can't be told as predictions are dead letters; that the topic takes them again is for a restart to learn."""
    with run.feed() as feed:
        worker = run.worker(publish=IMPATIENT)
        run.until_predicting(worker, 100)
        run.sleep(0.0, 2.0)
        run.strike(worker)
        _limit(run, _TOO_SMALL)
        run.until(lambda: worker.metric("frames_dead_lettered_total") >= 100, "frames are dead letters")
        worker.stop()
        _limit(run, 2**20)
        run.until_predicting(run.worker())
        sent = feed.end()
    run.finish(sent, either=sent)


def _limit(run: Run, max_bytes: int) -> None:
    wanted = ConfigResource(ConfigResourceType.TOPIC, run.topics.predictions, {"max.message.bytes": str(max_bytes)})
    with closing(KafkaAdminClient(bootstrap_servers=run.topics.bootstrap_servers)) as admin:
        admin.alter_configs([wanted])


def _group(run: Run) -> Consumer:
    return Consumer(
        {"bootstrap.servers": run.topics.bootstrap_servers, "group.id": run.topics.group, "enable.auto.commit": False}
    )


def _committed(run: Run) -> list[TopicPartition]:
    """The group's committed offset of each partition, 0 where there is none."""
    places = [TopicPartition(run.topics.frames, number) for number in range(run.topics.partitions)]
    with closing(_group(run)) as consumer:
        found = consumer.committed(places, timeout=_ANSWER_S)
    return [TopicPartition(place.topic, place.partition, max(0, place.offset)) for place in found]


def _reset(run: Run, offsets: list[int]) -> None:
    """As `kafka-consumer-groups --reset-offsets` does, which wants the group empty."""
    places = [TopicPartition(run.topics.frames, number, offset) for number, offset in enumerate(offsets)]
    with closing(_group(run)) as consumer:
        consumer.commit(offsets=places, asynchronous=False)


def _leader(run: Run, topic: str, partition: int) -> int:
    with closing(_group(run)) as consumer:
        return int(consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions[partition].leader)


def _sources(run: Run) -> set[str]:
    with TopicReader(run.topics.bootstrap_servers, [run.topics.predictions]) as reader:
        return {header(message, "ce_source").decode() for message in reader.read_on()}

from __future__ import annotations

from datetime import timedelta

from service.records.entities import Review
from service.records.good_parts import forms_recorded, read_good_parts
from service.records.store import Records
from service.types import Decision, ModelIdentity, Thresholds
from tests.unit.records.making import START, record

OTHER = ModelIdentity("polka-dot", 1, "float32", "cpu")


def test_good_parts_are_accepted_or_called_good(records: Records) -> None:
    flagged = Decision.NOT_OK
    records.save(
        [
            record(1, score=0.10, serial="A"),
            record(2, score=0.12, serial="A"),  # the same part again
            record(3, score=0.11),  # no serial: by its picture
            record(4, score=0.11, image_sha256=f"{3:064x}"),  # the same picture again
            record(5, flagged, score=0.5, serial="B"),  # called good below
            record(6, score=0.15, serial="C"),  # escaped
            record(7, score=0.09, serial="C"),
            record(8, flagged, score=0.6, serial="D"),  # truly flawed
            record(9, flagged, score=0.7, serial="E"),  # nobody knows
            record(10, score=0.08, serial="E"),
            record(11, Decision.UNDECIDABLE, score=0.1, serial="F"),
            record(12, score=0.1, serial="G", thresholds=Thresholds(0.15, 0.3)),  # the sender's own threshold
            record(13, score=0.1, serial="H", model=OTHER),
            record(14, score=0.13, serial="I"),  # after the span
        ]
    ).result(20)
    for number, word in ((1, "right"), (5, "overkill"), (6, "escape"), (8, "right")):
        records.review(f"{number:032x}", Review(word, "Kim")).result(20)  # type: ignore[arg-type]
    span = {"since": START, "until": START + timedelta(seconds=14)}
    good = read_good_parts(records.database, "polka-dot", 1, "int8", review_threshold=0.2, **span)
    assert [picture.score for picture in good.pictures] == [0.10, 0.12, 0.11, 0.11, 0.5]
    parts = [picture.part for picture in good.pictures]
    assert good.count == 3
    assert parts[0] == parts[1] != parts[2] == parts[3]
    assert good.pictures[2].sha256 == good.pictures[3].sha256 == f"{3:064x}"
    assert (good.reviewed, good.open) == (2, 1)
    assert good.pictures[0].inspected_at == START + timedelta(seconds=1)
    assert list(forms_recorded(records.database, "polka-dot", 1)) == ["int8", "float32"]


def test_without_records_there_are_no_good_parts(records: Records) -> None:
    good = read_good_parts(records.database, "polka-dot", 1, "int8", review_threshold=0.2)
    assert (good.pictures, good.count, good.reviewed, good.open) == ((), 0, 0, 0)
    assert list(forms_recorded(records.database, "polka-dot", 1)) == []

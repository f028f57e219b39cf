"""What is served is written down and read again, by the same settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from farthing.inference.serving_record import ServingRecord

SERVING = {"assistant": "assistant-q4", "small": "./models/small.gguf"}


def test_what_was_written_is_read_by_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "edge" / "serving.json"
    record = ServingRecord(path, "first", "")
    assert record.read() == {}
    record.write(SERVING)
    assert ServingRecord(path, "first", "").read() == SERVING
    assert ServingRecord(path, "another", "").read() == {}
    assert ServingRecord(path, "first", "under another name").read() == {}
    record.write({})
    assert record.read() == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model": "first", "name": "", "serving": 3}']
)
def test_a_file_that_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "serving.json"
    path.write_text(text)
    assert ServingRecord(path, "first", "").read() == {}


def test_a_disk_that_takes_nothing_is_told_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "edge").write_text("a file where a folder belongs")
    ServingRecord(tmp_path / "edge" / "serving.json", "first", "").write(SERVING)
    assert "forgotten at a restart" in caplog.text

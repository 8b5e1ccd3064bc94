"""Picture files that are not whole, or of other kinds, as references by their path."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
from uno_rs.pictures import raw

FIXTURES = Path(__file__).parents[2] / "tests/fixtures/pictures/pillow"


@pytest.mark.parametrize("name", ["baseline.jpg", "progressive.jpg", "restarts.jpg"])
@pytest.mark.parametrize("load_truncated", [False, True])
def test_a_jpeg_that_is_cut_short_is_refused_whatever_pillow_was_told(name, load_truncated, tmp_path, monkeypatch):
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", load_truncated)
    whole = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    for part in range(1, 10):
        path.write_bytes(whole[: len(whole) * part // 10])
        with pytest.raises(ValueError, match="cut short"):
            raw(path)
    path.write_bytes(whole + bytes(1 << 20))
    assert raw(path)[1:4] == raw(FIXTURES / name)[1:4]


def test_files_of_other_kinds_are_named_with_what_to_do(tmp_path):
    path = tmp_path / "photo.jpg"
    for data, words in [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC.*convert it"),
        (b"<!DOCTYPE html><html></html>", "web page.*anew"),
        (b"%PDF-1.7\n", "PDF.*pdftoppm"),
        (b"no picture", "no picture that can be read"),
    ]:
        path.write_bytes(data)
        with pytest.raises(PIL.UnidentifiedImageError, match=f"photo.jpg.*{words}"):
            raw(path)


def test_a_raw_photo_is_not_taken_for_its_preview(tmp_path):
    path = tmp_path / "photo.dng"
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(buffer, "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="raw photo.*DNG"):
        raw(path)

"""TOML from elsewhere: refused in one way, before it takes memory or time."""

import tracemalloc

import pytest

from tfstruct.cli import configuration
from tfstruct.convert import add_boards
from tfstruct.errors import RecipeError
from tfstruct.untrusted import toml_text

WRONG = {
    "no TOML": ("[[", "is no TOML file"),
    "no UTF-8": (b"\xff\xfe", "is no TOML file"),
    "lists in lists": ("x = " + "[" * 100_000, "nests too deep"),
    "tables in tables": ("x = " + "{a=" * 100_000, "nests too deep"),
    "a key of many parts": ("a." * 20_000 + "a = 1", "a key has more than 32 parts"),
    "a table of many parts": ("[" + "a . " * 20_000 + "a]", "a key has more than 32 parts"),
    "quoted parts": ('"a"."a".' * 20_000 + "a = 1", "a key has more than 32 parts"),
    "an integer of many digits": ("x = " + "9" * 5_000, "is no TOML file"),
    "an integer that cannot be written": ("x = 0x" + "f" * 5_000, "an integer has more than 64 bits"),
    "one in a list": ("x = [{y = 9223372036854775808}]", "an integer has more than 64 bits"),
    "a long word": ("x = [\n" + "a" * 1_000_000 + "b", "is no TOML file"),
    "many quotes": ("x = [\n" + '"' * 1_000_000, "is no TOML file"),
    "many spaces": ("x = [\n" + "a " * 500_000, "is no TOML file"),
    "too long": ("x = 1\n#" + "x" * (1 << 20), "has more than 1,048,576 bytes"),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    "read",
    [toml_text.read, add_boards, lambda path: configuration.read(str(path), "convert")],
    ids=["text", "boards", "options"],
)
def test_what_is_none(text, says, read, tmp_path):
    path = tmp_path / "hostile.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    tracemalloc.start()
    with pytest.raises(RecipeError, match=rf"hostile\.toml.*{says}") as caught:
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_what_is_one(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b'[a.b.c]\r\nx = 9223372036854775807\r\n"a.b" = "1.2.3"\r\n')
    assert toml_text.read(path) == {"a": {"b": {"c": {"x": 2**63 - 1, "a.b": "1.2.3"}}}}


def test_no_file(tmp_path):
    with pytest.raises(RecipeError, match=r"--config: there is no file .*none\.toml"):
        toml_text.read(tmp_path / "none.toml", "--config: ")
    with pytest.raises(RecipeError, match=r"cannot be read"):
        toml_text.read(tmp_path)

"""Boards by name with their flash and RAM: a table, to which users add their own by a call or a TOML file.

The figures are the manufacturers': of the microcontroller, or of the flash chip beside it. Each row names its source.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping

from tfstruct.convert.devices.device import Device, Memory
from tfstruct.errors import RecipeError
from tfstruct.untrusted import toml_text

_KB, _MB = 1 << 10, 1 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*:[a-z0-9][a-z0-9+._-]*")
_SIZE = re.compile(r"([\d_.,]+)\s*(b|bytes|kb|kib|mb|mib)?")
_UNITS = {"": 1, "b": 1, "bytes": 1, "kb": _KB, "kib": _KB, "mb": _MB, "mib": _MB}
# Processor -> which of CMSIS-NN's implementations its kernels come from, by the library's README (version 7).
CORES = {
    "cortex-m0+": "CMSIS-NN in plain C: no SIMD instructions",
    "cortex-m3": "CMSIS-NN in plain C: no SIMD instructions",
    "cortex-m4": "CMSIS-NN with the DSP extension",
    "cortex-m7": "CMSIS-NN with the DSP extension",
    "cortex-m33": "CMSIS-NN with the DSP extension, where the chip has it",
    "cortex-m55": "CMSIS-NN with Helium (MVE)",
    "cortex-m85": "CMSIS-NN with Helium (MVE)",
    "esp32-s3": "ESP-NN",
}


@dataclasses.dataclass(frozen=True)
class Board:
    """A board that runs TensorFlow Lite Micro.

    Args:
        name: `"processor:board"` in small letters, such as `"cortex-m4:nano33ble"`.
        what: its full name.
        flash_bytes: for program and file together.
        ram_bytes: internal RAM, for everything.
        psram_bytes: slower RAM outside of the chip, where the arena may lie too.
        aliases: other names.
        source: where the figures are from.

    Raises:
        RecipeError: another form of name, an unknown processor, or a size that is no number of bytes.

    Example:
        >>> from tfstruct.convert import Board
        >>> board = Board("cortex-m4:ours", "our sensor", flash_bytes=512 * 1024, ram_bytes=128 * 1024)
        >>> print(tfstruct.check_target(model, board).memory[0])
        fits: the file takes ... of 524,288 bytes (...%); your program comes on top
    """

    name: str
    what: str
    flash_bytes: int
    ram_bytes: int
    psram_bytes: int = 0
    aliases: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self):
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise RecipeError(
                "A board's name is its processor and its own name in small letters, such as 'cortex-m4:nano33ble'. "
                f"Received: {self.name!r}."
            )
        if self.core not in CORES:
            raise RecipeError(f"A board's processor must be one of {', '.join(CORES)}. Received: {self.core!r}.")
        for field, least in (("flash_bytes", 1), ("ram_bytes", 1), ("psram_bytes", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RecipeError(f"The board {self.name}: {field} must be a number of bytes. Received: {value!r}.")
        object.__setattr__(self, "aliases", tuple(self.aliases))

    @property
    def core(self) -> str:
        """The processor: `"cortex-m4"`."""
        return self.name.partition(":")[0]


_ARDUINO = "https://docs.arduino.cc/hardware"
_RIOT = "https://doc.riot-os.org"
_ESP = "https://docs.espressif.com/projects/esp-idf/en/latest/esp32s3/hw-reference"
# What a program can use of the ESP32-S3's 512 KB of SRAM: the rest is cache (PlatformIO's board file).
_ESP_RAM = 320 * _KB
# The first of a processor is what its bare name stands for.
_TABLE = (
    Board("cortex-m0+:pico", "Raspberry Pi Pico (RP2040)", 2 * _MB, 264 * _KB, 0,
          ("pico", "raspberry pi pico", "rp2040"), "https://datasheets.raspberrypi.com/pico/pico-product-brief.pdf"),
    Board("cortex-m4:nano33ble", "Arduino Nano 33 BLE and BLE Sense (nRF52840)", _MB, 256 * _KB, 0,
          ("nano33ble", "nano33blesense", "arduino nano 33 ble sense", "nrf52840"), f"{_ARDUINO}/nano-33-ble-sense"),
    Board("cortex-m4:nucleo-l4r5zi", "ST Nucleo-L4R5ZI (MLPerf Tiny's reference board)", 2 * _MB, 640 * _KB, 0,
          ("nucleo-l4r5zi", "stm32l4r5"), f"{_RIOT}/boards/nucleo-l4r5zi"),
    Board("cortex-m4:microbit2", "BBC micro:bit V2 (nRF52833)", 512 * _KB, 128 * _KB, 0,
          ("microbit", "microbit v2", "nrf52833"), "https://tech.microbit.org/hardware/"),
    Board("cortex-m7:stm32f746g-disco", "ST STM32F746G Discovery", _MB, 340 * _KB, 0,
          ("stm32f746", "stm32f7"), f"{_RIOT}/group__boards__stm32f746g-disco.html"),
    Board("cortex-m7:stm32h747i-disco", "ST STM32H747I Discovery", 2 * _MB, _MB, 0,
          ("stm32h747", "stm32h7", "portenta h7"), "https://docs.zephyrproject.org/latest/boards/st/stm32h747i_disco"),
    Board("cortex-m33:pico2", "Raspberry Pi Pico 2 (RP2350)", 4 * _MB, 520 * _KB, 0,
          ("pico2", "raspberry pi pico 2", "rp2350"), "https://docs.zephyrproject.org/latest/boards/raspberrypi/rpi_pico2"),
    Board("esp32-s3:devkitc-1-n8r8", "Espressif ESP32-S3-DevKitC-1-N8R8", 8 * _MB, _ESP_RAM, 8 * _MB,
          ("esp32-s3-devkitc-1",), f"{_ESP}/esp32s3/user-guide-devkitc-1.html"),
    Board("esp32-s3:devkitc-1-n8", "Espressif ESP32-S3-DevKitC-1-N8", 8 * _MB, _ESP_RAM, 0, (),
          f"{_ESP}/esp32s3/user-guide-devkitc-1.html"),
)  # fmt: skip
_BOARDS = {board.name: board for board in _TABLE}


def boards() -> tuple[Board, ...]:
    """All boards that `check_target` and `--target` know by name: the table's, and those that were added.

    Returns:
        Boards, in the order of the table; see `Board`.

    Example:
        >>> from tfstruct.convert import boards
        >>> print(boards()[1].name, boards()[1].ram_bytes)
        cortex-m4:nano33ble 262144
    """
    return tuple(_BOARDS.values())


def add_board(board: Board) -> None:
    """Makes a board known by its name, for as long as this process runs; one of the same name is replaced.

    Args:
        board: with its memory.

    Raises:
        RecipeError: it is no `Board`.

    Example:
        >>> from tfstruct.convert import Board, add_board
        >>> add_board(Board("cortex-m4:ours", "our sensor", flash_bytes=512 * 1024, ram_bytes=128 * 1024))
        >>> tfstruct.check_target(model, "cortex-m4:ours").fits
        True
    """
    if not isinstance(board, Board):
        raise RecipeError(f"Expected a Board. Received: {type(board).__name__}.")
    _BOARDS[board.name] = board


def add_boards(path: str | os.PathLike) -> tuple[Board, ...]:
    """Adds the boards of a TOML file (`--boards FILE.toml`): a table a board, with the fields of `Board`.

    ::

        ["cortex-m4:ours"]
        what = "our sensor, revision 2"
        flash = "512 KB"
        ram = "128 KB"

    Args:
        path: of the file. `flash`, `ram` and `psram` are numbers of bytes, or texts with a unit: 1 MB is 1,024 KB.

    Returns:
        The boards of the file.

    Raises:
        RecipeError: no such file, no TOML, a field that is missing or unknown, or one that `Board` refuses; the
            file is named.

    Example:
        >>> import pathlib
        >>> from tfstruct.convert import add_boards
        >>> _ = pathlib.Path("boards.toml").write_text('["cortex-m7:ours"]\\nflash = "2 MB"\\nram = "512 KB"\\n')
        >>> [board.flash_bytes for board in add_boards("boards.toml")]
        [2097152]
    """
    tables = toml_text.read(path)
    try:
        found = tuple(_board(name, table) for name, table in tables.items())
    except RecipeError as error:
        raise RecipeError(f"{os.fspath(path)}: {error}") from None
    if not found:
        raise RecipeError(f'{os.fspath(path)} has no board. Expected tables such as ["cortex-m4:ours"].')
    for board in found:
        add_board(board)
    return found


def _board(name: str, table) -> Board:
    known = {"what", "flash", "ram", "psram", "aliases", "source"}
    fields = table.keys() if isinstance(table, Mapping) else set()
    if not {"flash", "ram"} <= fields or fields - known:
        raise RecipeError(
            f"The board {json.dumps(name)} must be a table with flash and ram, and if wanted "
            f"{', '.join(sorted(known))}. "
            f"Received: {', '.join(map(str, fields)) or type(table).__name__}."
        )
    aliases = table.get("aliases", ())
    if not isinstance(aliases, list | tuple) or not all(isinstance(one, str) for one in aliases):
        raise RecipeError(f"The board {json.dumps(name)}: aliases must be a list of texts. Received: {aliases!r}.")
    flash, ram, psram = (_size(name, key, table.get(key, 0)) for key in ("flash", "ram", "psram"))
    return Board(name, str(table.get("what", name)), flash, ram, psram, tuple(aliases), str(table.get("source", "")))


def _size(board: str, field: str, value) -> int:
    """Bytes, from a whole number or a text with a unit."""
    found = value
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip().lower())
        try:
            found = float(match[1].replace("_", "").replace(",", "")) * _UNITS[match[2] or ""] if match else None
        except ValueError:
            found = None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 2**63 or found != int(found):
        raise RecipeError(
            f"The board {board}: {field} must be a number of bytes, or a text such as '512 KB' or '1 MB'. "
            f"Received: {value!r}."
        )
    return int(found)


def memory(board: Board, content: bytes, arena: tuple[int, int] | None, why: str = "") -> tuple[Memory, ...]:
    """What a file takes of a board's flash and RAM.

    The arena was measured with 64-bit pointers. What it holds for good is mostly structures of pointers, of which a
    32-bit board needs at least half; activations take the same on both.

    Args:
        arena: (all of it, the part that holds activations), measured.
        why: why it is not known.
    """
    flash = Memory("flash", "the file", board.flash_bytes, len(content), len(content), "your program comes on top")
    if arena is None:
        return flash, Memory("RAM", "the arena", board.ram_bytes, remark=why)
    most, head = arena
    least = head + (most - head) // 2
    remark = "stack and variables come on top, and scratch buffers of optimized kernels"
    ram = Memory("RAM", "the arena", board.ram_bytes, least, most, remark)
    if ram.fits or not board.psram_bytes:
        return flash, ram
    instead = "as it does not fit into" if ram.fits is False else "if not in"
    slower = f"in PSRAM, {instead} the {board.ram_bytes:,} bytes of internal RAM: slower"
    return flash, Memory("PSRAM", "the arena", board.psram_bytes, least, most, slower)


class BoardDevices(Mapping[str, Device]):
    """The boards of some processors as devices, those that are added later too.

    Args:
        runs: processor -> whether it is one of them.
        make: board -> device.
    """

    def __init__(self, runs: Callable[[str], bool], make: Callable[[Board], Device]):
        self._runs, self._make = runs, make

    def of(self, board: Board) -> Device | None:
        """A board as a device, known by its name or not; None if its processor is not one of these."""
        return self._make(board) if self._runs(board.core) else None

    def __iter__(self) -> Iterator[str]:
        return (board.name for board in boards() if self._runs(board.core))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Device:
        board = _BOARDS[name]
        if not self._runs(board.core):
            raise KeyError(name)
        # The bare name of a processor means its first board: a file is to fit some memory.
        first = next(one for one in boards() if one.core == board.core)
        aliases = (*board.aliases, *((board.core,) if board is first else ()))
        return dataclasses.replace(self._make(board), aliases=aliases)

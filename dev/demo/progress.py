"""Show the progress of the products: on a terminal, lines change in place; elsewhere, new lines are written."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from dev.demo.catalog_run import ProductProgress


class ProgressDisplay:
    """Shows the progress of a few products.

    :param out: The output stream. On a terminal, lines are replaced; elsewhere, only changes are written.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started = time.monotonic()
        self._shown: list[ProductProgress] = []

    def show(self, products: list[ProductProgress]) -> None:
        """Show the current progress of all products."""
        if self._out.isatty():
            self._redraw(products)
        else:
            self._write_changes(products)
        self._shown = products
        self._out.flush()

    def _redraw(self, products: list[ProductProgress]) -> None:
        if self._shown:
            self._out.write(f"\x1b[{len(self._shown)}A")
        # Lines are truncated, because a wrapped line would break the cursor movement of the next update.
        width = shutil.get_terminal_size().columns - 1
        for product in products:
            self._out.write(f"\r\x1b[2K{self._line(product)[:width]}\n")

    def _write_changes(self, products: list[ProductProgress]) -> None:
        for product in products:
            if product not in self._shown:
                self._out.write(f"{self._line(product)}\n")

    def _line(self, product: ProductProgress) -> str:
        mark = "✓" if product.finished else "·"
        return f"  {mark} {time.monotonic() - self._started:4.0f} s  {product.name:<24} {product.status}"

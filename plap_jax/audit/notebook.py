"""What a notebook shows of an audit: sentences, and a table of the highest scores with their pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

COLUMNS = ("rank", "file", "score", "stderr", "p_value", "flagged", "z")
LARGEST = 64  # pixels of a picture's longer side


def notebook_view(
    lines: Sequence[str], rows: Sequence[Mapping[str, Any]], pictures: Sequence[np.ndarray | None]
) -> str:
    """HTML of a result.

    Args:
        lines: the result in words.
        rows: an image each, as ``AuditResult.to_rows`` has them, at least one; of their values those of ``COLUMNS``
            are shown.
        pictures: of each row, ``(h, w, 1 or 3)`` uint8, or None.
    """
    told = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    shown = [name for name in COLUMNS if name in rows[0]]
    head = "".join(f"<th>{name}</th>" for name in ("", *shown))
    body = []
    for row, picture in zip(rows, pictures, strict=True):
        cells = "".join(f"<td>{html.escape(_cell(row[name]))}</td>" for name in shown)
        body.append(f"<tr><td>{_thumbnail(picture)}</td>{cells}</tr>")
    return f"{told}<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _thumbnail(picture: np.ndarray | None) -> str:
    if picture is None:
        return ""
    stored = BytesIO()
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    image.thumbnail((LARGEST, LARGEST))
    image.save(stored, "PNG")
    return f'<img alt="" width="48" src="data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}">'

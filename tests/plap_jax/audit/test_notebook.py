"""What a notebook shows: escaped cells, pictures in either number of channels, nothing where there is none."""

import base64
import re
from io import BytesIO

import numpy as np
from PIL import Image

from plap_jax.audit.notebook import LARGEST, notebook_view


def test_rows_are_a_table_of_known_columns_with_escaped_text_and_pictures():
    rows = [
        {"rank": 1, "file": "<b>", "score": 0.123456, "p_value": None, "nearest": "not shown"},
        {"rank": 2, "file": "b", "score": 1e-9, "p_value": 0.5, "nearest": "not shown"},
    ]
    grey, coloured = np.full((200, 100, 1), 7, np.uint8), np.full((4, 4, 3), 9, np.uint8)
    shown = notebook_view(["1 < 2"], [*rows, rows[1]], [grey, coloured, None])
    assert shown.startswith("<p>1 &lt; 2</p><table>") and "<b>" not in shown and "not shown" not in shown
    assert re.findall("<th>(.*?)</th>", shown) == ["", "rank", "file", "score", "p_value"]
    cells = re.findall("<td>([^<]*)</td>", shown)
    assert cells[:4] == ["1", "&lt;b&gt;", "0.1235", ""] and cells[4:8] == ["2", "b", "1e-09", "0.5"]
    pictures = [Image.open(BytesIO(base64.b64decode(one))) for one in re.findall('base64,([^"]*)', shown)]
    assert [one.size for one in pictures] == [(LARGEST // 2, LARGEST), (4, 4)]
    assert [one.mode for one in pictures] == ["L", "RGB"] and pictures[1].getpixel((0, 0)) == (9, 9, 9)

"""One colour for each component, the same in every layer, image and run; and the colours of heat maps.

The components' colours are chosen to be told apart: seven of Okabe & Ito (2008), then each the farthest from all before
it in CIELAB, the smallest distance counted over normal vision and the three kinds of colour blindness as simulated by
Machado et al. (2009). Any two of the first 16 differ by more than 16 (CIE76) to everyone, any two of the first 32 by
more than 12.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: RGB of component 0, 1, ...: uint8 ``[64, 3]``. More components start over.
PALETTE: npt.NDArray[np.uint8] = np.frombuffer(
    bytes.fromhex(
        "0072B2 E69F00 009E73 CC79A7 F0E442 56B4E9 D55E00 8800FF"
        "442200 CCFFAA 220088 880066 00FFEE 8866FF EE0044 AACC66"
        "226622 440066 88CC88 2244AA AAFFCC AA2266 AA88FF FF8844"
        "AA0000 EE2266 4400CC 882288 CCCCFF FF22CC AA00CC EEAAAA"
        "662244 666688 CCAACC 660022 44FF66 CC0088 AAAA66 8844FF"
        "886644 EE88AA FFCCAA EE6688 CC22AA 88EECC 660088 AAEE88"
        "CC22CC 8888CC AA0044 CCCC44 CC2222 0000FF FF88FF 8800AA"
        "AA8822 660066 66EEAA 008866 0022AA AA66EE EECC00 AA44EE"
    ),
    np.uint8,
).reshape(-1, 3)

#: Black, violet, red, orange, pale yellow: ever lighter, so that who sees no colours reads it, too.
_HEAT = np.array([[0, 0, 0], [60, 15, 110], [165, 35, 95], [235, 105, 40], [255, 190, 60], [255, 255, 225]])


def component_colour(component: int) -> npt.NDArray[np.uint8]:
    """RGB of a component: uint8 ``[3]``."""
    colour: npt.NDArray[np.uint8] = PALETTE[component % len(PALETTE)]
    return colour


def heat_colours(values: npt.NDArray[np.floating[Any]], most: float) -> npt.NDArray[np.uint8]:
    """A heat map: black is 0, the lightest is ``most`` or above.

    Args:
        values: float ``[H, W]``.
        most: the end of the scale; 0 makes everything black.

    Returns:
        uint8 ``[3, H, W]``.
    """
    place = np.clip(values / most if most > 0 else np.zeros_like(values), 0, 1)
    knots = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.rint(np.interp(place, knots, channel)) for channel in _HEAT.T]).astype(np.uint8)

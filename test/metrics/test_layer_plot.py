"""The picture of error rates by layer: drawn with and without intervals, floor and several systems."""

import pytest

from espnet_ext.metrics.layer_plot import save_layer_plot

POINTS = [("MFCC", 0.2, (0.1, 0.3)), ("0", 0.3, (0.2, 0.4)), ("1", 0.25, None), ("2", 0.1, (0.05, 0.2))]


@pytest.mark.parametrize("lines", [{"raw": POINTS}, {"raw": POINTS[2:3]}, {"raw": POINTS, "minus mean": POINTS[1:]}])
def test_a_png_whole_or_not_at_all(tmp_path, lines):
    save_layer_plot(tmp_path / "layers.png", "an encoder", lines, "MFCC")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="two"):
        save_layer_plot(tmp_path / "other.png", "an encoder", {"raw": [("two", 0.1, None)]})
    assert [path.name for path in tmp_path.iterdir()] == ["layers.png"]

"""The report says which gate refused what, where, and how often something was drawn again."""

from typing import Any

from styleavatar3d.shards.rejections import count_rejections, yaw_band


def record(yaw: float, style: str, verdict: str, refusals: list[list[str]]) -> dict[str, Any]:
    return {"yaw": yaw, "style": style, "verdict": verdict, "refusals": refusals}


def test_rejections_are_counted_by_gate_band_and_style():
    told = count_rejections(
        [
            record(3.0, "clay", "accepted", []),
            record(-20.0, "clay", "accepted", [["view"], ["view", "text"]]),
            record(-180.0, "toy", "rejected", [["face", "view"], ["face"], ["face"]]),
            record(90.0, "toy", "rejected", [["safety"]]),
            {"yaw": 91.0, "style": "toy", "verdict": "accepted"},
        ]
    )
    assert (told["pictures"], told["rejected"], told["drawn_again"], told["draws"]) == (5, 2, 1, 1 + 3 + 3 + 1 + 1)
    assert told["by_gate"]["view"] == {"draws": 3, "rejected": 1} and told["by_gate"]["face"]["draws"] == 3
    assert told["by_gate"]["text"]["rejected"] == 0
    assert told["by_style"]["clay"]["view"] == 2 and told["by_style"]["toy"]["rejected"] == 2
    assert told["by_yaw"]["157.5-180.0"]["face"] == 3 and told["by_yaw"]["067.5-112.5"]["pictures"] == 2
    assert list(told["by_yaw"]) == sorted(told["by_yaw"])


def test_bands_hold_every_yaw_once():
    assert yaw_band(0) == "000.0-022.5" and yaw_band(-22.5) == "022.5-067.5" and yaw_band(-180) == "157.5-180.0"

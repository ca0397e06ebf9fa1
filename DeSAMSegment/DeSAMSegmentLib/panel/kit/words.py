"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from ...engine.pace import Pace


def duration(seconds: float) -> str:
    """Such as "8 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return _("{seconds} s").format(seconds=whole)
    if whole < 3600:
        return _("{minutes} min {seconds} s").format(minutes=whole // 60, seconds=whole % 60)
    return _("{hours} h {minutes} min").format(hours=whole // 3600, minutes=whole % 3600 // 60)


def size(count: float) -> str:
    """Bytes as "39 MB" or "2.6 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def paceText(pace: Pace, unit: str, done: int, total: int) -> str:
    """Such as "Slice 34 of 120 · 5.1 slices/s · 17 s left"."""
    words = _UNITS.get(unit, _UNITS["slice"])()
    parts = [_("{unit} {done} of {total}").format(unit=words[0], done=done, total=total)]
    rate, left = pace.rate, pace.seconds_left(total)
    if rate > 0:
        parts.append(f"{rate:.1f} {words[1]}" if rate >= 0.1 else f"{duration(1 / rate)} {words[2]}")
    if left is not None and done < total:
        parts.append(_("{time} left").format(time=duration(left)))
    return " · ".join(parts)


_UNITS: dict[str, Any] = {
    "slice": lambda: (_("Slice"), _("slices/s"), _("per slice")),
    "epoch": lambda: (_("Epoch"), _("epochs/s"), _("per epoch")),
    "case": lambda: (_("Case"), _("cases/s"), _("per case")),
}


def modelFinds(card: Any) -> str:
    return ", ".join(label.name for label in card.labels)


def cardText(name: str, card: Any) -> str:
    """A model's card as a tooltip in HTML."""
    from html import escape

    training, inference = card.training, card.inference
    rows = [
        (_("Finds"), modelFinds(card)),
        (_("Backbone"), card.backbone),
        (_("Mode"), modeName(inference.get("mode", "grid"))),
        (_("Slice axis"), str(card.slices.get("axis", ""))),
        (_("Continues"), str(training.get("base", ""))),
        (_("Trained on"), caseCount(training)),
        (_("Validation Dice"), diceText(training)),
        (_("Created"), card.created[:10]),
        (_("Licence"), card.licence),
    ]
    lines = "".join(f"<tr><td><b>{key}</b>&nbsp;</td><td>{escape(value)}</td></tr>" for key, value in rows if value)
    description = f"<p>{escape(card.description)}</p>" if card.description else ""
    return f"<p><b>{escape(card.title or name)}</b></p>{description}<table>{lines}</table>"


def caseCount(training: dict[str, Any]) -> str:
    cases = training.get("cases", ())
    return _("{count} cases").format(count=len(cases)) if cases else ""


def diceText(training: dict[str, Any]) -> str:
    best = training.get("mean_validation_dice")
    return f"{best:.3f}" if isinstance(best, (int, float)) else ""


def modeName(mode: str) -> str:
    return {"grid": _("grid of points"), "box": _("whole box")}.get(mode, mode)

"""Room on the disk for all features of a training at once, settled before the first of them is computed."""

from __future__ import annotations

from ..data.features import KEPT, FeatureCache
from ..errors import BadDataset

GB = 1e9
SPARE = 1 * GB  # left to everybody else on the disk, or a tenth of the features where that is less


def make_room(cache: FeatureCache, pictures: int, each: int) -> str:
    """Lets a cache hold everything that one run reads again and again, so that none of it goes before the run ends.

    Arguments:
      cache: its limit is raised where it is too small for the run and the disk is not; the caller puts it back.
      pictures: slices in all their looks. each: bytes that one of them takes.

    Returns:
      A sentence for the log; empty where the limit was enough.

    Raises:
      BadDataset: when the disk cannot hold them.
    """
    need = pictures * each
    wanted = int(need / KEPT) + each  # a cache that is full keeps this much less than its limit
    room = cache.room_bytes()
    if room is not None:
        largest = int(room - min(SPARE, 0.1 * need))
        if wanted > largest:
            raise BadDataset(
                f"The features of {pictures} pictures (slices in all their looks) need {wanted / GB:.3g} GB, "
                f"and {cache.root} can hold {max(0, largest) / GB:.3g} GB.",
                "Lower --styles or --views, take fewer cases, or set DESAM_HOME (with --no-cache: TMPDIR) to a folder "
                "on a larger disk.",
            )
        cache.limit_bytes = min(cache.limit_bytes, largest)  # what is older goes before the disk is full
    if wanted <= cache.limit_bytes:
        return ""
    cache.limit_bytes = wanted
    return f"The features of this training need {need / GB:.3g} GB: {cache.root} may grow to {wanted / GB:.3g} GB."

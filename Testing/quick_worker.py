"""The background process with the stand-in encoder, for tests of the panel that are not about features."""

from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.jobs.worker import main
from standin import stand_in_encoder


def begin(session: Session, backbone: str) -> object:
    if session._encoder is None:
        session._encoder = stand_in_encoder()
    return session._encoder


if __name__ == "__main__":
    Session.begin = begin  # type: ignore[method-assign, assignment]
    main()

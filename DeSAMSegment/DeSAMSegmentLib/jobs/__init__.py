"""Long jobs in a child process: requests in, events out, one JSON line each.

``requests.py`` says what can be asked for, ``protocol.py`` how it is written, ``runner.py`` carries it out,
``worker.py`` is the child process and ``client.py`` the parent's side of it. Nothing here knows Slicer or Qt.
"""

"""What roomhub costs, alone and beside others: ``make bench``, or ``python -m benchmarks COMMAND`` in its environment.

* ``core``: the pure hub, timed by pyperf (``core.py``).
* ``endtoend``: roomhub and its peers through sockets, five workloads (``endtoend.py``, ``servers.py``, ``peers/``).
* ``memory``, ``slow``, ``crowd``, ``ticker``: promises of its own, each with its target (``scenarios.py``).
* ``report``: ``docs/benchmarks.md`` and its chart, from what was measured (``report.py``).

``load.c`` is the load generator, ``load.py`` starts it.
"""

"""The numbers: fastlane next to the bare engine, in the same run. ``python -m benchmarks --help``.

===============  ==================================================================
measure.py       what a row gets and gives: Bench, Setup, Result; taking turns
engine.py        the bare engine: the calls that fastlane cannot do without
server.py        fastlane in a process of its own, and what it takes of the machine
client.py        the HTTP client's side of a server
load.py          a process that posts as fast as it is answered
parse_only.py    a process that only parses and answers: the floor for a POST
viewers.py       a process that watches a log through many WebSockets
report.py        the table, the JSON file and the plot
rows/            one module per row of the table
===============  ==================================================================
"""

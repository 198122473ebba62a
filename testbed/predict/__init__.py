"""What a run would take, without running it: from the steps of a method, a profile of its stages, and a topology.

work.py        what every rank does, what a message costs, what comes out
network.py     routes, and what a direction of a link is over time
flow.py        one direction of a TCP connection
phases.py      messages that are under way together, priced by numpy
simulate.py    discrete events: queues, windows, traces, loss, arrivals
analytic.py    no events: phases in lock-step, for a thousand devices
choice.py      which of the two, and why
paper.py       the accounting of the ASTRA paper, beside its published figures; accounting.py: of the steps that run
frontier.py    the fastest method by rate and delay
maps.py        the same of a topology's own methods
messages.py    what a message costs, measured on this machine; machine.py: what emulated lines cost it
command.py     `testbed predict FILE`
against.py     predictions beside measurements, `testbed predict RUN...` by beside.py; own.py: of a run that computed;
               counted.py: what of a sweep counts, unmeasured.py: what it left out; jobs.py: on all cores, kept.py: and
               kept
left.py        how long a sweep will take
"""

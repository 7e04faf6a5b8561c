"""The program that downloads one model: a process of its own, with the standard library only.

It alone speaks to the hub. What it is doing stands in the job's folder, which everyone may read.
"""

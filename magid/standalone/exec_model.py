"""The first program of a model unit, which executes llama-server; before_exec.py says how.

    exec_model.py [bind:PORT|none] [connect:PORT]... [ready:MAX_S:EVERY_S] DEV:INO:PATH... --
        PROGRAM ...

No more than this, because Python compiles a program at each start, and a module once: as one file
it took 4 ms longer.
"""

import sys

if __name__ == "__main__":
    sys.path.append(__file__.rpartition("/")[0])
    sys.exit(__import__("before_exec").main(sys.argv[1:]))

"""``python -m metarl`` says what there is."""

import sys

from metarl import __version__
from metarl.common.errors import nearest
from metarl.common.output import say, say_on_stdout

_COMMANDS = ("train", "evaluate", "plot", "compare", "analyze", "record", "report")

if words := [word for word in sys.argv[1:] if word not in ("-h", "--help")]:
    hint = f" Write python -m metarl.{words[0]} for that." if words[0] in _COMMANDS else nearest(words[0], _COMMANDS)
    say(f"error: python -m metarl takes no arguments, got {' '.join(words)!r}.{hint}")
    sys.exit(2)
say_on_stdout(f"""metarl {__version__}: meta-reinforcement learning on Gymnasium and PyTorch

python -m metarl.train     meta-trains an agent and writes its run into a folder
python -m metarl.evaluate  measures it on held-out tasks: return after 0, 1, ... gradient steps, or episodes
python -m metarl.plot      draws these returns, or those of training, of one run or several
python -m metarl.compare   compares algorithms over seeds: paired differences, intervals, the share of tasks made worse
python -m metarl.analyze   shows what it learned: conflict between tasks, attenuation, embeddings, ...
python -m metarl.record    films how it adapts to a task, as GIF and MP4
python -m metarl.report    puts figures, tables, settings and commands of runs into one HTML file

Start with a few minutes on 2D navigation:

  python -m metarl.train --env navigation --algo maml --iterations 60 --run-dir runs/first
  python -m metarl.evaluate runs/first
  python -m metarl.plot runs/first --output first.png

python -m metarl.train --list shows all task families, algorithms, meta-optimisers and presets.
python -m metarl.evaluate --list shows the trained agents that come with the package, for every command but train.
Every command has --help. In Python: import metarl; help(metarl.train).""")

"""``python -m metarl`` says what there is."""

from metarl import __version__

print(f"""metarl {__version__}: meta-reinforcement learning on Gymnasium and PyTorch

python -m metarl.train     meta-trains an agent and writes its run into a folder
python -m metarl.evaluate  measures it on held-out tasks: return after 0, 1, ... gradient steps, or episodes
python -m metarl.plot      draws these returns, or those of training, of one run or several
python -m metarl.analyze   shows what it learned: conflict between tasks, attenuation, embeddings, ...

Each of them has --help. python -m metarl.train --list shows all task families and algorithms.""")

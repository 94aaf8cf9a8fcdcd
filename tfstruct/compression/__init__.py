"""From a trained model and a budget to the file that ships. The names load on first use.

The function is `tfstruct.compress`.

From the bottom up:

- `candidate.py`: `Candidate`: the figures of one model and its file
- `budget.py`: `Budget`, and `Limits`: the same in absolute figures
- `decision.py`, `stage.py`, `report_data.py`, `compression_report.py`, `compressed.py`: what was decided, what was
  done, both as plain data and to be read, what is handed back
- `steps/`: one kind of step a file: its settings as plain data, what it proposes for a task, its choices in a search,
  how it is done; `step.py`: what they have in common; found by being in the folder
- `data_sizes.py`: a model whose inputs leave sizes open as one of the sizes of its data
- `dataset.py`: a user's data in memory or streamed; epochs in orders of their own
- `objective.py`, `quality.py`: the loss to train for; the figure to choose by
- `held_out.py`: samples that are neither trained on nor chosen by; `batch_norms.py`: statistics that lag, measured anew
- `distillation.py`, `training.py`: `Distill` for every kind of output; training that is on disk after every epoch
- `folder.py`: `WorkingFolder`: models and JSON, whole or not at all, of one run alone
- `progress.py`: stage, steps, time left, the best up to now
- `measuring.py`: a model to the figures of its file, latencies in turns with the plain int8 file
- `task.py`: `Task`: model, data and budget, opened and measured once, for one or many strategies
- `outcome.py`, `step_context.py`: what one step hands on, and what it works with
- `execution.py`: `carry_out`: a strategy step by step, each stage resumable
- `alternatives/alternative.py`: `Part`: what is decided on its own, `Alternative`: a way in which it may be
- `alternatives/offered.py`: the parts of a task, as the kinds of steps offer them; a choice as a strategy of steps
- `alternatives/regions.py`: stretches of a model with one tensor in and one tensor out
- `alternatives/operator_times.py`: times of operators at any width, kept per machine, or by a device's table
- `alternatives/sums.py`, `alternatives/label_counts.py`: figures as sums over alternatives; channels that stay
- `alternatives/variants.py`, `alternatives/by_path.py`, `alternatives/cost_tables.py`: a model and what its parts make
  of its calls; figures by path; bytes, work and memory as tables by the alternatives that they depend on
- `alternatives/kernel_calls.py`, `alternatives/latency_tables.py`: the operator that a layer becomes; latency likewise
- `alternatives/cost_table.py`, `alternatives/program.py`, `alternatives/solver.py`: what pieces of a file cost by the
  alternatives they depend on; the integer program of that; `choose`: the least damage within all limits together
- `alternatives/front.py`: the choices of least damage over all values of one limit, as a report
- `alternatives/activations.py`, `alternatives/distances.py`, `alternatives/short_training.py`,
  `alternatives/damage.py`: what each alternative loses, alone in its region, taught by the original
- `alternatives/measured.py`, `alternatives/front_strategies.py`: what there is to choose from; strategies on the front
- `alternatives/rivals.py`: choices of other kinds that lose little more
- `alternatives/choosing.py`: the choices of least damage as strategies, drafted, tried, with reasons
- `four_bits.py`, `precision_choice.py`, `sizing.py`: how many channels and bits it takes until the budget is met
- `outlook.py`, `strategy.py`: what steps look at before they propose; `decide`: their proposals as one strategy, with
  reasons
- `search/space.py`, `search/proposals.py`: the choices that steps offer as one space; which points of it are next, by
  generation
- `search/trial.py`, `search/record.py`: one strategy that is tried; all of them in a database
- `search/evaluation.py`: a trial to its figures; what the graph rules out is not trained
- `search/workers.py`, `search/stored_task.py`: trials in this process or in Ray's; a task on disk for these
- `search/searching.py`: `Search`, `search_strategies`: what is tried is a function of seed and earlier generations,
  never of time
- `search/pareto.py`, `search/search_report.py`: who beats whom; the front as text, table, picture
- `automatic.py`: what `strategy="auto"` does
- `mistakes.py`, `report_extras.py`: where the file goes wrong on the validation data; what the report shows besides
  figures
- `report_pictures.py`, `report_page.py`, `model_card.py`: the report drawn, as one HTML page, as Markdown
- `compressing.py`: `compress`
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "compress": "compressing",
        "Task": "task",
        "Settings": "task",
        "carry_out": "execution",
        "StrategyResult": "execution",
        "Progress": "progress",
        "Budget": "budget",
        "Limits": "budget",
        "Candidate": "candidate",
        "Compressed": "compressed",
        "CompressionReport": "compression_report",
        "Decision": "decision",
        "Stage": "stage",
        "Step": "steps.step",
        "Search": "search.searching",
        "search_strategies": "search.searching",
        "SearchReport": "search.search_report",
        "Space": "search.space",
        "Trial": "search.trial",
        "steps": None,
    },
)

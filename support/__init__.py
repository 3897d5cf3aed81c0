"""What serves the files above: a map of this folder, in groups.

sampling      live draw graphs shapes seeds sampling_params cpu_decoder gpu_decoder served
the step      schedule criteria phases metrics steplog log_probs optimizers reward_calls
              tree_levels
a run         settings beginnings inputs config_file runfiles files checkpoints heartbeat
              processes ranks models sft trackers
its page      logged_runs logged_trees
what comes in questions examples messages cells benchmarks plugins plain_code
the tools     tool_result own_tools native_calls jail python_worker sandbox search corpus http
evaluation    heldout scores results result_page compare judge words
mathematics   math_equal phrases latex characters names algebra same_values decimals units sets
              answer_trees matrices
"""

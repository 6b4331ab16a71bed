"""``offload tune``: the policy and the budgets that serve a workload best, searched on the simulator."""

"""``offload report``: the answers of other commands as one page of plots and tables that needs no network."""

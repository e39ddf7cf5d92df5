"""How good a run became, on frames that it was not taught."""

"""Strategies and ratios, searched for: proposals in generations, trials that resume, the Pareto front."""

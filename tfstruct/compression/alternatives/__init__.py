"""What a model could become, part by part: what is measured, and chosen from.

The files are named in the docstring of `tfstruct.compression`.
"""

"""One table says what a precision is; recipes, schemes and quantizers read it there."""

import pytest

from tfstruct.convert import Recipe
from tfstruct.errors import RecipeError
from tfstruct.precisions import OF_FILES, OF_TRAINING, PRECISIONS
from tfstruct.quantize import Scheme


@pytest.mark.parametrize("name", PRECISIONS)
def test_recipes_take_those_of_files_and_schemes_those_of_training(name):
    if name in OF_FILES:
        assert Recipe(name).precision == name
    else:
        with pytest.raises(RecipeError, match="precision"):
            Recipe(name)
    if name in OF_TRAINING and name != "float32":
        assert Scheme(name).weight_bits("any") == PRECISIONS[name].weight_bits
        assert Scheme.file_of(name) in OF_FILES
    elif name != "float32":
        with pytest.raises(ValueError, match="precision"):
            Scheme(name)


@pytest.mark.parametrize("name", OF_FILES)
def test_engines(name):
    if "tensorflow" in PRECISIONS[name].engines:
        assert Recipe(name, engine="tensorflow").engine == "tensorflow"
    else:
        with pytest.raises(RecipeError, match="writes float32, float16, int8, int16x8"):
            Recipe(name, engine="tensorflow")


def test_which_activations_are_integers():
    assert [name for name in OF_FILES if Recipe(name).quantizes_activations] == ["int8", "int16x8", "int4"]
    assert not Recipe("int4", activations="float32").quantizes_activations
    assert Recipe("float32", layers={"a": "int8"}).quantizes_activations
    assert [Recipe(name).activation_bits for name in ("int8", "int4", "int16x8")] == [8, 8, 16]

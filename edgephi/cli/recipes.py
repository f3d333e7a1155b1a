"""`edgephi recipes`: the models that edgephi knows how to build."""

from edgephi.cli.list_command import list_command
from edgephi.declared.recipe import FOLDER
from edgephi.declared.recipe import recipes as all_recipes

recipes = list_command(FOLDER, all_recipes, "List the models and how each is quantised.")

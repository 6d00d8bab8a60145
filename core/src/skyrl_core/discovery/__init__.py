"""Finds plugins in installed metadata, without importing any plugin. Imports no torch.

Decisions:

- Metadata is read through importlib-metadata, never through the standard library's copy: the behaviour is the same on
  every Python, it has `Distribution.origin`, which Python has only since 3.13, and it imports in half the time.
  Two metadata libraries in one process would raise two sets of exceptions.
- Entry points and headers are parsed here, line by line. `Distribution.entry_points` raises on a damaged file that a
  listing must show as a row, and `Distribution.metadata` drops every header after a malformed one.
- Version bounds are compared by packaging, but names are parsed here: importing `packaging.requirements` or
  `packaging.utils` takes 10 to 20 ms, up to a third of the time of a listing.
- A plugin's description is the first line of its module's docstring, read as text. Listing 300 losses therefore
  imports none of them, and a broken one cannot break the list.
- Two distributions that claim one name are both shown, and the bare name is rejected. Picking one would make a run
  depend on the order of installation.
"""

from skyrl_core.discovery.allow_deny import ALLOW_ALL as ALLOW_ALL
from skyrl_core.discovery.allow_deny import PluginPolicy as PluginPolicy
from skyrl_core.discovery.claim import Claim as Claim
from skyrl_core.discovery.claim import qualified as qualified
from skyrl_core.discovery.install_command import install_command as install_command
from skyrl_core.discovery.metadata_files import installed_version as installed_version
from skyrl_core.discovery.origin import origin_of as origin_of
from skyrl_core.discovery.plugin_call import Guard as Guard
from skyrl_core.discovery.plugin_call import PluginCall as PluginCall
from skyrl_core.discovery.plugin_call import complete_traceback as complete_traceback
from skyrl_core.discovery.plugin_call import error_text as error_text
from skyrl_core.discovery.plugin_call import exits_as_errors as exits_as_errors
from skyrl_core.discovery.plugin_call import with_traceback as with_traceback
from skyrl_core.discovery.plugin_class import Plugin as Plugin
from skyrl_core.discovery.plugin_class import class_or_function as class_or_function
from skyrl_core.discovery.plugin_class import construct as construct
from skyrl_core.discovery.plugin_class import load_class as load_class
from skyrl_core.discovery.plugin_group import ADVANTAGE_ESTIMATORS as ADVANTAGE_ESTIMATORS
from skyrl_core.discovery.plugin_group import ENVIRONMENTS as ENVIRONMENTS
from skyrl_core.discovery.plugin_group import OBSERVERS as OBSERVERS
from skyrl_core.discovery.plugin_group import POLICY_LOSSES as POLICY_LOSSES
from skyrl_core.discovery.plugin_group import ROLLOUT_ENGINES as ROLLOUT_ENGINES
from skyrl_core.discovery.plugin_group import TRACKERS as TRACKERS
from skyrl_core.discovery.plugin_group import PluginGroup as PluginGroup
from skyrl_core.printable_text import printable as printable
from skyrl_core.printable_text import printable_line as printable_line
from skyrl_core.printable_text import safe_to_print as safe_to_print
from skyrl_core.printable_text import shortened as shortened

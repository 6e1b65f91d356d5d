"""Shell completion inside lists of ``key=value``, from the table that parses them (:class:`vmm.options.syntax.Syntax`).

Each list gets a shell function. It completes file names before the first comma if the list begins with one, and after
it the keys, with each value of those that have few.
"""

from __future__ import annotations

import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.options.syntax import Syntax

BASH = """\
# WORD KIND CANDIDATE...
_pyvmm_list() {
  local word=$1 kind=$2 prefix= each
  shift 2
  if [[ $word == *,* ]]; then
    prefix=${word%,*},
  elif [[ $kind == file ]]; then
    compgen -f -- "$word"
    return
  elif [[ $kind == directory ]]; then
    compgen -d -- "$word"
    return
  fi
  for each; do
    [[ $prefix$each == "$word"* ]] && printf '%s\\n' "$prefix$each"
  done
}
"""
BASH_END = """
# bash takes a word apart at = and :, which stand in lists.
_pyvmm_whole_words() {
  local line=${COMP_LINE:0:COMP_POINT} last cut= each
  local -a words
  read -ra words <<< "$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  last=${words[${#words[@]} - 1]}
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$((${#words[@]} - 1))
  _shtab_pyvmm
  for each in = :; do
    if [[ $COMP_WORDBREAKS == *"$each"* && $last == *"$each"* ]]; then
      each=${last%"$each"*}$each
      [[ ${#each} -gt ${#cut} ]] && cut=$each
    fi
  done
  COMPREPLY=("${COMPREPLY[@]#"$cut"}")
  if [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} == *= ]]; then
    compopt -o nospace 2>/dev/null
  fi
}

complete -o bashdefault -F _pyvmm_whole_words pyvmm
"""
ZSH = """\
# KIND CANDIDATE...
_pyvmm_list() {
  local kind=$1
  shift
  if compset -P '*,'; then
    compadd -S '' -- "$@"
  elif [[ $kind == file ]]; then
    _files -S ''
  elif [[ $kind == directory ]]; then
    _files -/ -S ''
  else
    compadd -S '' -- "$@"
  fi
}
"""
FISH = """\
# KIND CANDIDATE...
function _pyvmm_list
  set -l word (commandline -ct)
  set -l prefix ''
  if string match -q '*,*' -- $word
    set prefix (string replace -r '[^,]*$' '' -- $word)
  else if test $argv[1] = file
    __fish_complete_path $word
    return
  else if test $argv[1] = directory
    __fish_complete_directories $word
    return
  end
  for each in $argv[2..]
    printf '%s\\n' $prefix$each
  end
end
"""

BEGIN = {"bash": BASH, "zsh": ZSH, "fish": FISH}
"""What the functions of lists call."""
END = {"bash": BASH_END}
"""What stands behind shtab's script."""


def candidates(syntax: Syntax) -> list[str]:
    """The items that may stand between two commas: ``ro``, ``serial=``, ``cache=writeback``."""
    found: list[str] = []
    for key in syntax.keys:
        values = key.metavar.split("|") if "|" in key.metavar and "[" not in key.metavar else [""]
        found += [f"{key.name}={value}" if key.metavar else key.name for value in values]
    return found


def completion(name: str, syntax: Syntax) -> dict[str, object]:
    """The ``complete`` attribute of an argparse action in the form that shtab expects.

    :param name: of the list, for the names of functions
    """
    # shtab has bash treat what a function offers as names of files when that is in the function's name
    function = f"_pyvmm_list_{name}" + ("_file" if syntax.first else "")
    words = shlex.join([syntax.of or "words", *candidates(syntax)])
    return {
        "bash": function,
        "zsh": function,
        "fish": f"(_pyvmm_list {words})",
        "preamble": {
            "bash": f'{function}() {{\n  _pyvmm_list "$1" {words}\n}}',
            "zsh": f"{function}() {{\n  _pyvmm_list {words}\n}}",
        },
    }

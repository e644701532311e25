"""``approxhub completion``: the script that makes a shell complete commands and ids."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, get_completion_class

from approxhub.cli.output import examples

# Click's own script takes words as bash splits them, which is at colons too: of an id it would
# see only what stands behind its colon. This one splits the line at blanks, and leaves out of each
# answer what bash takes for an earlier word.
_BASH = r"""
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" type value word="" prefix=""
    local -a words
    read -ra words <<< "$line"
    local number=${#words[@]}
    if [[ "$line" != *[[:space:]] ]]; then
        number=$((number - 1))
        word="${words[number]}"
    fi
    if [[ "$word" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
        prefix="${word%%:*}:"
    fi
    COMPREPLY=()
    while IFS=, read -r type value; do
        case "$type" in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$prefix"}") ;;
        esac
    done < <(COMP_WORDS="$line" COMP_CWORD=$number %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _BASH


@click.command(
    epilog=examples(
        "completion bash >> ~/.bashrc",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/approxhub.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands and ids.

    Add it to the file that the shell reads when it starts, and start the shell anew.
    """
    shell_class = _Bash if shell == "bash" else get_completion_class(shell)
    assert shell_class is not None
    root = ctx.find_root()
    script = shell_class(root.command, {}, "approxhub", "_APPROXHUB_COMPLETE").source()
    click.echo(script.strip())

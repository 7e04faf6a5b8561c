# zsh_complete.zsh FOLDER LINE: prints what zsh offers behind LINE, one a line, with the completions
# of FOLDER. Completion works on a terminal only, so one is made; what would be added to the list
# is printed instead, between two NUL characters.
zmodload zsh/zpty
zpty terminal zsh -f -i
wait_for() {
    local text all=
    while zpty -r terminal text; do
        all+=$text
        [[ $all != *$1* ]] || break
    done
    print -rn -- $all
}
zpty -w terminal "PROMPT=; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D"
zpty -w terminal 'compadd() {
    local -a hits
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    builtin compadd -A hits "$@"
    builtin compadd "$@"
    print -rl -- $'"'\\0'"'$^hits$'"'\\0'"'
}'
# In two halves, lest what is typed, which the terminal shows too, be taken for what is printed.
zpty -w terminal 'show() { zle list-choices; print OV""ER; exit }; zle -N show; bindkey "^X" show'
zpty -w terminal 'print REA""DY'
wait_for READY >/dev/null
zpty -n -w terminal "$2"$'\C-X'
wait_for OVER | tr '\n\r' '  ' | tr '\0' '\n' | sed -n 'n;p'

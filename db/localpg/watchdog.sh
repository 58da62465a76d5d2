# The watchdog of a private PostgreSQL. It outlives its owner, whose end it notices as the end of standard input, and
# then makes sure that nothing of the server is left.
#
# stdin  lines of "initdb PID", "postmaster PID" or "none 0": what is running now
# fd 3   nobody writes to it; its end means that the owner and every process of the server have ended
# $1     the signal to begin with: INT shuts down in order, QUIT at once
# $2     a directory to remove at the end; empty: none
# $3     the data directory

# Whoever ends a whole process group or service means the owner; we go when that has gone.
trap '' HUP INT QUIT TERM PIPE

what=none pid=0
while read -r w p; do what=$w pid=$p; done
exec </dev/null

# Signals one step after the other until killed. Repeating a signal does no harm; one that came before postgres had
# installed its handlers may have been lost.
end_postmaster() {
	n=0
	while [ $n -lt 150 ]; do
		if [ $n -lt 50 ]; then s=$1; elif [ $n -lt 100 ]; then s=QUIT; else s=KILL; fi
		kill -$s "$pid" 2>/dev/null
		sleep 0.1 2>/dev/null || { sleep 1; n=$((n + 9)); }
		n=$((n + 1))
	done
}

killer=
case $what in
initdb) kill -KILL "-$pid" 2>/dev/null ;;
postmaster)
	end_postmaster "$1" 3<&- &
	killer=$!
	;;
esac
cat <&3 >/dev/null
[ -z "$killer" ] || kill -KILL "$killer" 2>/dev/null

[ -n "$2" ] || exit 0
# A server that was killed could not give back its System V shared memory.
ipc=$(sed -n '7s/.* //p' "$3/postmaster.pid" 2>/dev/null)
[ -z "$ipc" ] || ipcrm -m "$ipc" 2>/dev/null
rm -rf -- "$2" 2>/dev/null
exit 0

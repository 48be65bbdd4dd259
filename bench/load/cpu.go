package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// clockTick is sysconf(_SC_CLK_TCK), 100 on every Linux architecture Go supports.
const clockTick = 100

// cpu is what a process has used since its start, in seconds.
type cpu struct{ total, user, system float64 }

// cpuOf reads the CPU time of all threads of a process. /proc/PID/stat has it with 10 ms steps and
// includes threads that ended; the scheduler's own count per thread, where the kernel offers it, has
// nanoseconds, and the proxies here keep their threads. User and system are the kernel's estimate.
func cpuOf(pid int) (cpu, error) {
	var used cpu
	if pid == 0 {
		return used, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return used, err
	}
	// The command's name stands in parentheses and may hold spaces; fields are counted after it.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	used = cpu{(user + system) / clockTick, user / clockTick, system / clockTick}
	if exact := schedulerTime(pid); exact > 0 {
		used.total = exact
	}
	return used, nil
}

func schedulerTime(pid int) float64 {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	total := 0.0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0
		}
		nanoseconds, _ := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
		total += nanoseconds / 1e9
	}
	return total
}

/*
 * PostgreSQL's own latch, measured inside a server: the other side of `cargo bench -p ipc --bench latch`.
 *
 * Why it exists: Walship's latch is to be no slower than the one it follows, and a figure from another
 * machine or hour says little. So the same games are played by two backends of a real server.
 *
 * How to use: preload the library, create the two functions, and have two sessions play against each other:
 *
 *     CREATE FUNCTION latch_play(int, int, int, int, int) RETURNS text AS '.../latch_bench' LANGUAGE C;
 *     SELECT latch_play(side, pid of the other side, cpu, trips, number of the game);
 *
 * Side 0 begins. Each gets the microseconds of one trip there and back, and those of processor time that it
 * spent on it, with a tab between them. The number must be the same on both sides and another one in each game.
 *
 *     CREATE FUNCTION latch_fast_paths(int) RETURNS text AS '.../latch_bench' LANGUAGE C;
 *     SELECT latch_fast_paths(times);
 *
 * gives a line "name<TAB>nanoseconds" for each path that makes no system call.
 *
 * Invariant: a ball is written by the side that passes it, before the latch is set, and read by the other one
 * after its latch was reset. The loop is the one that latch.h prescribes. Made for PostgreSQL 15.
 */
#include "postgres.h"

#include <sched.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/wait_event.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(latch_play);
PG_FUNCTION_INFO_V1(latch_fast_paths);

void _PG_init(void);

/* The last ball that each side was sent: number of the game and trip. On cache lines of their own. */
typedef struct Board
{
	struct
	{
		pg_atomic_uint64 ball;
		char padding[64 - sizeof(pg_atomic_uint64)];
	} sides[2];
} Board;

static shmem_request_hook_type next_shmem_request = NULL;

static void
request_board(void)
{
	if (next_shmem_request)
		next_shmem_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(Board)));
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR, (errmsg("latch_bench must be in shared_preload_libraries")));
	next_shmem_request = shmem_request_hook;
	shmem_request_hook = request_board;
}

static Board *
shared_board(void)
{
	bool found;
	Board *board;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	board = ShmemInitStruct("latch_bench", sizeof(Board), &found);
	if (!found)
		for (int side = 0; side < 2; side++)
			pg_atomic_init_u64(&board->sides[side].ball, 0);
	LWLockRelease(AddinShmemInitLock);
	return board;
}

static void
run_on_cpu(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) != 0)
		ereport(ERROR, (errmsg("could not run on CPU %d: %m", cpu)));
}

static void
catch_ball(pg_atomic_uint64 *own, uint64 ball)
{
	for (;;)
	{
		ResetLatch(MyLatch);
		/* The other side may have failed: let a cancel request end it. */
		CHECK_FOR_INTERRUPTS();
		if (pg_atomic_read_u64(own) == ball)
			return;
		WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, PG_WAIT_EXTENSION);
	}
}

/* Seconds of processor time that this process has used up. */
static double
processor_time(void)
{
	struct timespec used;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return used.tv_sec + used.tv_nsec / 1e9;
}

Datum
latch_play(PG_FUNCTION_ARGS)
{
	int side = PG_GETARG_INT32(0) != 0;
	PGPROC *peer = BackendPidGetProc(PG_GETARG_INT32(1));
	int trips = PG_GETARG_INT32(3);
	int warm_up = trips / 10;
	uint64 ball = (uint64) PG_GETARG_INT32(4) << 32;
	Board *board = shared_board();
	pg_atomic_uint64 *own = &board->sides[side].ball;
	pg_atomic_uint64 *other = &board->sides[1 - side].ball;
	instr_time start;
	instr_time end;
	double used = 0;

	if (peer == NULL)
		ereport(ERROR, (errmsg("there is no backend with PID %d", PG_GETARG_INT32(1))));
	run_on_cpu(PG_GETARG_INT32(2));
	INSTR_TIME_SET_CURRENT(start);
	for (int trip = 1; trip <= warm_up + trips; trip++)
	{
		if (trip == warm_up + 1)
		{
			INSTR_TIME_SET_CURRENT(start);
			used = processor_time();
		}
		ball++;
		if (side == 1)
			catch_ball(own, ball);
		pg_atomic_write_u64(other, ball);
		SetLatch(&peer->procLatch);
		if (side == 0)
			catch_ball(own, ball);
	}
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	used = processor_time() - used;
	/* The latch was reset under whoever else had set it. */
	SetLatch(MyLatch);
	PG_RETURN_TEXT_P(cstring_to_text(
		psprintf("%f\t%f", INSTR_TIME_GET_DOUBLE(end) * 1e6 / trips, used * 1e6 / trips)));
}

#define MEASURE(name, path) \
	do \
	{ \
		instr_time start; \
		instr_time end; \
		INSTR_TIME_SET_CURRENT(start); \
		for (int done = 0; done < times; done++) \
		{ \
			path; \
			pg_compiler_barrier(); \
		} \
		INSTR_TIME_SET_CURRENT(end); \
		INSTR_TIME_SUBTRACT(end, start); \
		appendStringInfo(&report, "%s\t%f\n", name, INSTR_TIME_GET_DOUBLE(end) * 1e9 / times); \
	} while (0)

Datum
latch_fast_paths(PG_FUNCTION_ARGS)
{
	int times = PG_GETARG_INT32(0);
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, 3);
	int pair[2];
	int position;
	StringInfoData report;

	initStringInfo(&report);
	run_on_cpu(0);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
		ereport(ERROR, (errmsg("could not make a pair of sockets: %m")));
	position = AddWaitEventToSet(set, WL_SOCKET_READABLE, pair[0], NULL, NULL);
	SetLatch(MyLatch);
	MEASURE("set, already set", SetLatch(MyLatch));
	MEASURE("reset", ResetLatch(MyLatch));
	MEASURE("reset, and set with the owner awake", (ResetLatch(MyLatch), SetLatch(MyLatch)));
	MEASURE("CHECK_FOR_INTERRUPTS", CHECK_FOR_INTERRUPTS());
	MEASURE("modify without change", ModifyWaitEvent(set, position, WL_SOCKET_READABLE, NULL));
	FreeWaitEventSet(set);
	close(pair[0]);
	close(pair[1]);
	PG_RETURN_TEXT_P(cstring_to_text(report.data));
}

/* Terminal speeds in bits per second (2.42), over codes. Speeds without a code need a newer interface: EINVAL. */
#include "polyfill.h"

#include <termios.h>

enum { EINVAL_ = 22 };

OLD(speed_t, cfgetispeed, const struct termios *);
OLD(speed_t, cfgetospeed, const struct termios *);
OLD(int, cfsetispeed, struct termios *, speed_t);
OLD(int, cfsetospeed, struct termios *, speed_t);

/* The kernel's codes (asm-generic/termbits.h); headers of 2.42 have the speeds under these names. */
static const unsigned int SPEEDS[] = { 0,    50,   75,	 110,  134,  150,   200,   300,
				       600,  1200, 1800, 2400, 4800, 9600, 19200, 38400 };
static const unsigned int MORE[] = { 57600,   115200,  230400,	460800,	 500000,  576000,  921600, 1000000,
				     1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000 };
enum { EXTENDED = 010001 };

static unsigned int of_code(unsigned int code)
{
	if (code < sizeof(SPEEDS) / sizeof(*SPEEDS))
		return SPEEDS[code];
	if (code >= EXTENDED && code - EXTENDED < sizeof(MORE) / sizeof(*MORE))
		return MORE[code - EXTENDED];
	return 0;
}

static int to_code(unsigned int speed, speed_t *ret_code)
{
	unsigned int i;

	for (i = 0; i < sizeof(SPEEDS) / sizeof(*SPEEDS); i++)
		if (SPEEDS[i] == speed)
			return *ret_code = i, 0;
	for (i = 0; i < sizeof(MORE) / sizeof(*MORE); i++)
		if (MORE[i] == speed)
			return *ret_code = EXTENDED + i, 0;
	errno = EINVAL_;
	return -1;
}

#define GETTERS(name, old)                                                                \
	NEW(unsigned int, name, const struct termios *terminal)                            \
	{                                                                                 \
		return of_code(fairlead_old_##old(terminal));                              \
	}
#define SETTERS(name, old)                                                                \
	NEW(int, name, struct termios *terminal, unsigned int speed)                       \
	{                                                                                 \
		speed_t code;                                                              \
                                                                                          \
		return to_code(speed, &code) ? -1 : fairlead_old_##old(terminal, code);    \
	}
GETTERS(cfgetispeed__2_42, cfgetispeed)
GETTERS(cfgetospeed__2_42, cfgetospeed)
GETTERS(cfgetibaud, cfgetispeed)
GETTERS(cfgetobaud, cfgetospeed)
SETTERS(cfsetispeed__2_42, cfsetispeed)
SETTERS(cfsetospeed__2_42, cfsetospeed)
SETTERS(cfsetibaud, cfsetispeed)
SETTERS(cfsetobaud, cfsetospeed)

NEW(int, cfsetbaud, struct termios *terminal, unsigned int speed)
{
	speed_t code;

	if (to_code(speed, &code))
		return -1;
	fairlead_old_cfsetospeed(terminal, code);
	return fairlead_old_cfsetispeed(terminal, code);
}

NEW(int, cfsetspeed__2_42, struct termios *terminal, unsigned int speed)
{
	return fairlead_new_cfsetbaud(terminal, speed);
}

-- Reads a part of a channel's history together with its position, which begins if there is none.
-- KEYS  1 stream, 2 meta
-- ARGV  1 XRANGE or XREVRANGE, 2 and 3 its ends, 4 entries at most (0: none), 5 life of meta in ms
--       (0: for ever), 6 epoch if there is none
-- Returns top, epoch, entries.
local now = redis.call('HMGET', KEYS[2], 's', 'e')
local top, epoch = now[1] or '0', now[2]
if not epoch then
    epoch = ARGV[6]
    redis.call('HSET', KEYS[2], 'e', epoch)
end
if ARGV[5] ~= '0' then
    redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
local entries = {}
if ARGV[4] ~= '0' then
    entries = redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
end
return {top, epoch, entries}

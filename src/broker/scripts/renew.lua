-- Gives a channel a new epoch, unless somebody else has.
-- KEYS  1 meta
-- ARGV  1 the epoch that it must have, 2 the new one, 3 life of meta in ms (0: for ever)
-- Returns top and epoch, or nothing where there is no position.
local now = redis.call('HMGET', KEYS[1], 's', 'e')
local top, epoch = now[1] or '0', now[2]
if not epoch then
    return false
end
if epoch == ARGV[1] then
    epoch = ARGV[2]
    redis.call('HSET', KEYS[1], 'e', epoch)
    if ARGV[3] ~= '0' then
        redis.call('PEXPIRE', KEYS[1], ARGV[3])
    end
end
return {top, epoch}

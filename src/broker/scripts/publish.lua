-- Publishes into a channel's history: one atomic step gives the offset, keeps the publication and
-- passes it on.
-- KEYS  1 stream, 2 meta, 3 result of the idempotency key (only with one)
-- ARGV  1 data, 2 entries to keep, 3 and 4 lives of stream and meta in ms (0: for ever),
--       5 whether both begin anew, 6 epoch if there is none, 7 PUBLISH or SPUBLISH, 8 name of the
--       messages, 9 mark, 10 whether it may be there already, 11 whether the previous goes along,
--       12 version (0: none), 13 its epoch, 14 life of the result in ms
-- Returns offset, epoch, and "" or why nothing was published: "known", "stale", "unsure".
local stream, meta, result = KEYS[1], KEYS[2], KEYS[3]
local mark = ARGV[9]

if result then
    local known = redis.call('HMGET', result, 'e', 's')
    if known[1] then
        return {known[2], known[1], 'known'}
    end
end

-- The entry with our mark, if the answer to an earlier attempt was lost. "unsure": it may have been
-- there and be trimmed. Not so if everything ever kept is there, or something older of ours.
local function attempt(size)
    local entries = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 256)
    local own, number = string.match(mark, '^(.*%.)(%d+)$')
    for _, entry in ipairs(entries) do
        local fields = entry[2]
        for at = 1, #fields, 2 do
            if fields[at] == 'm' then
                if fields[at + 1] == mark then
                    return string.match(entry[1], '^%d+')
                end
                local before, earlier = string.match(fields[at + 1], '^(.*%.)(%d+)$')
                if before == own and tonumber(earlier) < tonumber(number) then
                    return nil
                end
            end
        end
    end
    if #entries < size and #entries < 256 then
        return nil
    end
    return 'unsure'
end

local now = redis.call('HMGET', meta, 'e', 's', 'v', 've')
local epoch = now[1]
if ARGV[10] == '1' and epoch then
    local found = attempt(tonumber(ARGV[2]))
    if found == 'unsure' then
        return {now[2] or '0', epoch, found}
    elseif found then
        return {found, epoch, ''}
    end
end

-- Numbers of 64 bits, which Lua's have not: the longer one is the larger.
local function at_least(a, b)
    return #a > #b or #a == #b and a >= b
end

local version, version_epoch = ARGV[12], ARGV[13]
if version ~= '0' and now[3] and (version_epoch == '' or version_epoch == now[4])
    and at_least(now[3], version) then
    return {now[2] or '0', epoch, 'stale'}
end

local begun = not epoch
if begun then
    epoch = ARGV[6]
    redis.call('HSET', meta, 'e', epoch)
end
if version ~= '0' then
    redis.call('HSET', meta, 'v', version, 've', version_epoch)
end
local top = string.format('%.0f', redis.call('HINCRBY', meta, 's', 1))
if top == '1' then
    -- Of an earlier life, whose position has vanished before it.
    redis.call('DEL', stream)
end

local message = '__p1:' .. top .. ':' .. epoch .. '__' .. ARGV[1]
if ARGV[11] == '1' then
    local previous = ''
    local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    if newest then
        for at = 1, #newest[2], 2 do
            if newest[2][at] == 'd' then
                previous = newest[2][at + 1]
            end
        end
    end
    message = '__d1:' .. top .. ':' .. epoch .. ':' .. #previous .. ':' .. previous .. ':'
        .. #ARGV[1] .. ':' .. ARGV[1]
end

local id, renew = top .. '-0', ARGV[5] == '1'
local goes_on = not begun and redis.call(
    'XADD', stream, 'NOMKSTREAM', 'MAXLEN', ARGV[2], id, 'd', ARGV[1], 'm', mark)
if not goes_on then
    redis.call('XADD', stream, 'MAXLEN', ARGV[2], id, 'd', ARGV[1], 'm', mark)
end
if ARGV[3] ~= '0' and (renew or not goes_on) then
    redis.call('PEXPIRE', stream, ARGV[3])
end
if ARGV[4] ~= '0' and (renew or begun) then
    redis.call('PEXPIRE', meta, ARGV[4])
end
redis.call(ARGV[7], ARGV[8], message)
if result then
    redis.call('HSET', result, 'e', epoch, 's', top)
    redis.call('PEXPIRE', result, ARGV[14])
end
return {top, epoch, ''}
